"""Checks of aggregation rules: what every rule over rows owes its clients."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sparring.aggregate import BLOCK, fold
from sparring.errors import ConfigError
from sparring.roles import StreamingAggregator
from sparring.signals import Cohort, Release
from sparring.testing.fixtures import make_updates
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.stage import same, tensors
from sparring.testing.subject import Trial, kind

RULES = kind("aggregators")
ROBUST = RULES.where(lambda s: "f" in s.spec.config.model_fields)
NEAR = 1e-9


def cohort(n: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Cohort:
    """A cohort of ``n`` clients."""
    updates = make_updates(n, 40, seed=seed, dtype=dtype)
    return Cohort(updates.rows, updates.layout, updates.ids, updates.weights, sources=updates.ids)


def _clients(trial: Trial) -> int:
    """How many clients are plenty for its ``f``."""
    return max(9, 4 * getattr(trial.config, "f", 0) + 5)


def _release(trial: Trial, rows: Cohort) -> Release:
    release: Release = trial.apply(trial.build(), rows, trial.context(cohort=rows.sources))
    demand(release.vector.shape == rows.base.shape[1:], f"a release of shape {tuple(release.vector.shape)}")
    return release


def _off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))


@check(RULES)
def permutation_invariance(trial: Trial) -> None:
    """Law: a rule does not depend on the order of the rows.
    Why: clients arrive in any order.
    If this fails: break ties by client id, never by position.
    """
    plain = cohort(_clients(trial))
    copied = torch.cat([plain.base[::2], plain.base[::2]])[: len(plain)]
    for what, base in (("rows", plain.base), ("rows of ties", plain.base.sign()), ("rows that are there twice", copied)):
        rows = replace(plain, base=base)
        index = torch.randperm(len(rows), generator=torch.Generator().manual_seed(3))
        assert rows.ids is not None
        assert rows.weights is not None
        ids = tuple(rows.ids[int(k)] for k in index)
        shuffled = Cohort(rows.base[index], rows.layout, ids, rows.weights[index], sources=ids)
        off = _off(_release(trial, shuffled).vector, _release(trial, rows).vector)
        demand(off < NEAR, f"another order of {what} moves the release by {off:.2g}")


@check(RULES)
def identical_rows(trial: Trial) -> None:
    """Law: where all clients send the same row, that row is the release.
    Why: a rule estimates what the clients agree on.
    If this fails: look for weights that do not sum to one, and for divisions by a spread that is zero here.
    """
    rows = cohort(_clients(trial))
    equal = replace(rows, base=rows.base[:1].expand_as(rows.base).clone())
    off = _off(_release(trial, equal).vector, rows.base[0])
    demand(off < NEAR, f"equal rows give a release that is off by {off:.2g}")


@check(RULES)
def single_client(trial: Trial) -> None:
    """Law: a cohort of one client gives its row, or a `ConfigError` that says how many are needed.
    Why: Poisson cohorts and dropouts leave one client some day.
    If this fails: handle n = 1, or refuse it with value, rule and fix.
    """
    rows = cohort(1)
    try:
        off = _off(_release(trial, rows).vector, rows.base[0])
    except ConfigError:
        return
    demand(off < NEAR, f"the row of a single client comes out off by {off:.2g}")


@check(RULES)
def lazy_cohort(trial: Trial) -> None:
    """Law: a mixed cohort gives what its rows would give if they were written out.
    Why: pre-aggregators hand on `mix @ base`; a rule that reads `base` reads the wrong rows.
    If this fails: use `cohort.rows`, `combine`, `gram` and `distances`, never `cohort.base`.
    """
    rows = cohort(_clients(trial))
    mix = torch.rand(len(rows), len(rows), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mixed = rows.mixed(mix / mix.sum(1, keepdim=True))
    written = Cohort(mixed.rows, rows.layout, None, None, sources=rows.sources)
    off = _off(_release(trial, mixed).vector, _release(trial, written).vector)
    demand(off < 1e-6, f"rows as a mix and rows written out give releases that differ by {off:.2g}")


@check(RULES)
def streaming_tree(trial: Trial) -> None:
    """Law: a streaming rule gives the same bits however its blocks arrive, and `add` and `merge` write into no accumulator.
    Why: results must not depend on the number of workers.
    If this fails: return new accumulators; keep nothing on `self`; let `init` be neutral.
    """
    rule = trial.build()
    if not isinstance(rule, StreamingAggregator):
        raise Inapplicable("it needs the whole cohort")
    ctx = trial.context()
    whole = make_updates(2 * BLOCK + 7, 40)
    parts = [whole.select(whole.ids[at : at + BLOCK]) for at in range(0, len(whole.ids), BLOCK)]
    first = fold(rule, [whole], ctx)  # type: ignore[arg-type]
    for blocks in ([whole], parts, [whole.select(whole.ids[:BLOCK]), whole.select(whole.ids[BLOCK:])]):
        again = fold(rule, blocks, ctx)  # type: ignore[arg-type]
        equal = torch.equal(first.vector, again.vector) and first.total == again.total
        demand(equal, f"the release differs when rows arrive in {len(blocks)} blocks")
    left, right = (rule.add(rule.init(part), part) for part in parts[:2])
    before = [tensor.clone() for tensor in (*tensors(left), *tensors(right))]
    both = rule.merge(left, right)
    rule.add(left, parts[2])
    demand(same(before, [*tensors(left), *tensors(right)]), "add or merge writes into an accumulator that it was given")
    neutral = rule.merge(both, rule.init(parts[0]))
    demand(same(tensors(both), tensors(neutral)), "merging with an empty accumulator changes the other")


def _bears(trial: Trial) -> int:
    """How many Byzantine clients the configuration says that it bears."""
    f = getattr(trial.config, "f", None)
    explicit = "f" in trial.config.model_fields_set or not trial.config.model_fields_set
    if not isinstance(f, int) or not explicit:
        raise Inapplicable("its configuration names no number f of Byzantine clients")
    return f


@check(ROBUST)
def outliers_resisted(trial: Trial) -> None:
    """Law: a rule with an option ``f`` stays near the benign rows while f clients send anything.
    Why: that is what ``f`` promises.
    If this fails: count ties, neighbours and trimmed values again, with weights and signs of outliers in mind.
    """
    f = _bears(trial)
    rows = cohort(_clients(trial))
    benign = rows.base[f:]
    low, high = benign.min(0).values, benign.max(0).values
    diameter, centre = float(torch.cdist(benign, benign).max()), benign.mean(0)
    signs = torch.randn(f, rows.base.shape[1], generator=torch.Generator().manual_seed(5)).sign().double()
    for lies in (1e6 * signs, torch.full_like(signs, 1e6), -1e6 * rows.base[:f]):
        vector = _release(trial, replace(rows, base=torch.cat([lies, benign]))).vector
        inside = bool(((vector >= low - NEAR) & (vector <= high + NEAR)).all())
        far = float((vector - centre).norm())
        demand(
            inside or far <= diameter,
            f"with f = {f} outliers at 1e6 of {len(rows)}, the release is {far:.3g} off (diameter {diameter:.3g})",
        )


@check(ROBUST)
def translation_equivariance(trial: Trial) -> None:
    """Law: a rule with an option ``f`` moves with its rows: adding one vector to all adds it to the release.
    Why: robustness is about where rows lie to one another, not where zero is.
    If this fails: measure distances between rows, not norms; or say in the reason of an xfail what zero means to it.
    """
    _bears(trial)
    rows = cohort(_clients(trial))
    shift = 3 * torch.randn(rows.base.shape[1], generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    off = _off(_release(trial, replace(rows, base=rows.base + shift)).vector - shift, _release(trial, rows).vector)
    demand(off < 1e-6, f"adding a vector to all rows moves the release by something else ({off:.2g})")
