"""TabLeak: cosine similarity of gradients over mixtures of codes, pooled over an ensemble of starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.likeness import assigned
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.boxed import Form, Recipe, descend, least
from sparring_inversion.matching import Look, Stack, cosine, stacks
from sparring_inversion.plugin_records import TableakConfig
from sparring_inversion.records import Encoding


@final
class Tableak(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the records behind an update from its direction, and from what their columns may be.

    $\arg\min_z 1 - \cos(\nabla_\theta L(x, y), \nabla_\theta L(x'(z), y))$,

    with $x' = \sum_k p_k c_k$, $p = softmax(z)$, for the codes c of a category, and $x' = l + \sigma(z) (h - l)$ for a number
    in [l, h]. Adam steps along the sign of the gradient in z, from z ~ U(-1, 1), at a constant rate.

    All ``restarts`` are pooled, after the records of each were matched with those of the start of least loss: least squared
    distance, and only records of one label with each other. Numbers are their median; categories the code of greatest mean p.
    Nothing is chosen by the truth. ``loss`` is 1 - cosine at the pooled records; a capture of norm 0 has no direction, and
    gives pooled starts, with loss 1. ``progress`` is that of the start of least loss, whose categories are mixtures. ``notes``
    say how sure the ensemble is: 1 minus the entropy of the mean p over log k, and the deviation of the numbers' positions in
    [l, h]. Inputs without columns are numbers in [0, 1]. ``cost`` counts gradient evaluations.

    The authors' code pools shares of codes by their median, too.

    Source: Vero, Balunovic, Dimitrov, Vechev, ICML 2023, 2210.01785.
    """

    def __init__(self, config: TableakConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        config, ensemble = self.config, Ensemble()
        recipe = Recipe(
            config.iterations,
            config.restarts,
            config.lr,
            (0.9, 0.999),
            True,
            config.snapshots,
            lambda step: 1.0,
            self._starts,
            _mismatch,
            _nothing,
            form=_mixed,
            hold=lambda z: z,
            pool=ensemble.pool,
        )
        found = descend(view, stacks(view, config.labels), recipe, ctx)
        said = ensemble.said() if config.restarts > 1 else ()
        return replace(found, cost=found.cost + len(found.inputs), notes=(*found.notes, *said))

    def _starts(self, stack: Stack, generator: torch.Generator) -> Tensor:
        shape = self.config.restarts, stack.captures[0].examples, _encoding(stack).size
        return 2 * torch.rand(shape, generator=generator) - 1


@dataclass(frozen=True)
class Ensemble:
    """Pools starts, and keeps how sure it was: of each category, and of each number how its members spread."""

    sure: list[Tensor] = field(default_factory=list)
    spread: list[Tensor] = field(default_factory=list)

    def pool(self, stack: Stack, z: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """The records [S, B, ...] of dummies ``z`` [S, R, B, U] with mismatches [S, R], and 1 - cosine at them [S]."""
        encoding = _encoding(stack)
        members = aligned(encoding, encoding.shares(z), loss, stack.labels)
        u = pooled(encoding, members)
        numbers, categories = encoding.parts(members)
        self.spread.append(numbers.std(1, correction=0).flatten())
        self.sure.extend(certainty(p.mean(1)).flatten() for p in categories if p.shape[-1] > 1)
        x = encoding.inputs(encoding.hardened(u))
        return x, _mismatch(stack.look(x), stack).detach()

    def said(self) -> tuple[str, ...]:
        """The means over everything that was pooled, in a sentence."""
        parts = []
        if self.sure:
            parts.append(f"of categories to {100 * float(torch.cat(self.sure).mean()):.0f} % (1 - entropy / log k)")
        if any(len(spread) for spread in self.spread):
            parts.append(f"of numbers up to a deviation of {float(torch.cat(self.spread).mean()):.2g} of their range")
        return (f"on average the ensemble is sure {' and '.join(parts)}",) if parts else ()


def aligned(encoding: Encoding, u: Tensor, loss: Tensor, labels: Tensor) -> Tensor:
    """Members ``u`` [S, R, B, U] with the records of each in the order of the start of least ``loss`` [S, R].

    A record takes only a place of its own label ([S, B]). Where no start came to a finite number, nothing is moved; one that
    did not is replaced by the start of least loss.
    """
    whole = u.isfinite().flatten(2).all(2)
    leads = least(torch.where(whole, loss, torch.inf))
    u = torch.where(whole[:, :, None, None], u, u[torch.arange(len(u), device=u.device), leads][:, None])
    x = encoding.inputs(u).flatten(3).cpu()
    for s, lead in enumerate(leads.tolist()):
        for label in labels[s].unique() if bool(whole[s].any()) else ():
            places = torch.nonzero(labels[s] == label)[:, 0].cpu()
            for r in range(u.shape[1]) if len(places) > 1 else ():
                i, j = torch.tensor(assigned(x[s, r, places], x[s, lead, places])).T
                u[s, r, places[j]] = u[s, r, places[i]]
    return u


def pooled(encoding: Encoding, members: Tensor) -> Tensor:
    """Of ``members`` [S, R, B, U] the median position of each number, and the mean share of each code; [S, B, U].

    Values are sorted first, so that not even rounding tells in what order members came.
    """
    R = members.shape[1]
    numbers, categories = encoding.parts(members.sort(1).values)
    median = (numbers[:, (R - 1) // 2] + numbers[:, R // 2]) / 2
    return torch.cat([median, *(p.mean(1) for p in categories)], -1)


def certainty(p: Tensor) -> Tensor:
    """1 - H(p) / log k of shares ``p`` [..., k > 1]: 1 where one code has all, 0 where all have the same."""
    return 1 + torch.xlogy(p, p).sum(-1) / torch.tensor(p.shape[-1]).log()


def _encoding(stack: Stack) -> Encoding:
    return Encoding.of(stack.captures[0].plan.shape, stack.captures[0].row)


def _mixed(stack: Stack) -> Form:
    encoding = _encoding(stack)
    return lambda z: encoding.inputs(encoding.shares(z))


def _mismatch(look: Look, stack: Stack) -> Tensor:
    return 1 - cosine(look.gradient, stack)


def _nothing(stack: Stack) -> Callable[[Tensor, Look], Tensor]:
    del stack
    return lambda x, look: torch.zeros_like(look.loss)
