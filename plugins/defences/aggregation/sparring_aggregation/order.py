"""Statistics of order per coordinate, in blocks of columns that fit the cache; no copy of the cohort is made."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from sparring.cohort import Cohort
from sparring_aggregation import network
from sparring_aggregation.statistics import Middle, Statistic

CELLS = 1 << 19
"""Numbers that a thread holds at once beside the input: what fits its cache."""
COMPILED = 1 << 17
"""Columns that a compiled loop takes at once: it needs few numbers beside them, and a call costs some microseconds."""
SHARE = 16
"""On other devices, where each call costs a launch, a block is this part of the input, if that is more."""
Source = Callable[[slice], Tensor]
Coefficients = Callable[[Tensor], Tensor]


def statistic_of(cohort: Cohort, statistic: Statistic, chosen: Tensor | None = None) -> Tensor:
    """The statistic of each column of the cohort's rows, or of the ``chosen`` ones [k] alone: [d]. Mixed rows are never formed.

    A column in which a value is NaN or Inf gives NaN: what is not finite is never trimmed out of sight.
    """
    base = cohort.base
    if cohort.mix is None:
        n = len(base) if chosen is None else len(chosen)
        if chosen is None:
            return _columns(base, n, statistic, lambda at: base[:, at])
        return _columns(base, n, statistic, lambda at: base[:, at].index_select(0, chosen))
    mix = (cohort.mix if chosen is None else cohort.mix.index_select(0, chosen)).to(base.dtype)
    return _columns(base, len(mix), statistic, lambda at: mix @ base[:, at])


def weighted_statistic_of(cohort: Cohort, coefficients: Coefficients) -> Tensor:
    r"""$\sum_k c_k x_{(k),j} / \sum_k c_k$ for each column j of the cohort's rows: [d].

    ``coefficients`` makes the c of a block [n, c] from the weights of its ranked values, each divided by the sum of all.
    """
    base, n = cohort.base, len(cohort)
    mix = None if cohort.mix is None else cohort.mix.to(base.dtype)
    assert cohort.weights is not None
    share = cohort.weights.to(base.device, torch.float64)
    share = share / share.sum()
    out = base.new_empty(base.shape[1])
    wide = torch.promote_types(base.dtype, torch.float32)

    def work(at: slice) -> None:
        block = base[:, at] if mix is None else mix @ base[:, at]
        ranked, order = block.T.sort(dim=1)
        c = coefficients(share[order]).to(wide)
        mean = (c * ranked).sum(dim=1) / c.sum(dim=1)
        out[at] = mean.masked_fill(~(ranked[:, 0].isfinite() & ranked[:, n - 1].isfinite()), torch.nan).to(base.dtype)

    _each(work, _blocks(base.shape[1], max(1024, _width(n, base) // 4)), base.device)
    return out


def mean_of_ranks(rows: Tensor, low: int, high: int) -> Tensor:
    """Mean of the order statistics ``low`` .. ``high`` - 1 (from 0) of each column of ``rows`` [n, d]: [d]."""
    return _columns(rows, len(rows), Middle(low, high), lambda at: rows[:, at])


def _blocks(d: int, width: int) -> list[slice]:
    return [slice(at, min(at + width, d)) for at in range(0, d, width)]


def _width(n: int, like: Tensor) -> int:
    """How many columns of ``n`` rows a block has."""
    cells = CELLS if like.device.type == "cpu" else max(CELLS, n * like.shape[1] // SHARE)
    return max(1024, cells // n)


def _each(work: Callable[[slice], None], parts: list[slice], device: torch.device) -> None:
    """Do ``work`` for every block, on as many threads as torch uses; its own would wait for one another in each call."""
    threads = min(torch.get_num_threads(), len(parts)) if device.type == "cpu" else 1
    if threads < 2:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, parts))


def _columns(base: Tensor, n: int, statistic: Statistic, take: Source) -> Tensor:
    """The statistic of each column: [d]. ``take`` gives the ``n`` rows of a block of columns."""
    d = base.shape[1]
    out = base.new_empty(d)
    compiled = network.kernel(n, d, statistic, base)
    if compiled is not None:
        for at in _blocks(d, COMPILED):
            block = take(at)  # of a single column code would be made once more
            out[at] = compiled(block) if block.shape[1] > 1 else network.run(block.unbind(0), statistic)
        return out

    def work(at: slice) -> None:
        block = take(at)
        out[at] = network.run(block.unbind(0), statistic) if n <= network.LARGEST else _sorted(block, statistic)

    _each(work, _blocks(d, _width(n, base)), base.device)
    return out


def _sorted(block: Tensor, statistic: Statistic) -> Tensor:
    """The statistic of each column of ``block`` [n, c] by sorting it; on the CPU by numpy, whose sort is vectorised."""
    columns = block.T.clone(memory_format=torch.contiguous_format)
    if columns.device.type == "cpu" and columns.dtype in (torch.float32, torch.float64):
        columns.detach().numpy().sort(axis=1)
    else:
        columns = columns.sort(dim=1).values
    n = len(block)
    ranks = statistic.ranks(n)
    wide = torch.promote_types(block.dtype, torch.float32)
    ranked = columns[:, ranks.start : ranks.stop].T.to(wide).contiguous()
    ends = columns[:, 0].isfinite() & columns[:, n - 1].isfinite()
    return statistic(ranked.unbind(0)).masked_fill_(~ends, torch.nan).to(block.dtype)


__all__ = ["mean_of_ranks", "statistic_of", "weighted_statistic_of"]
