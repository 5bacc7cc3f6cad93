"""Sorting networks over the rows of a cohort: the comparators that a statistic needs, one by one or compiled into a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sparring_aggregation.statistics import Middle, Statistic

LARGEST = 32
"""Rows up to which a network beats sorting each column, and compiles within seconds (measured; 100 rows: 80 s, no gain)."""


@cache
def comparators(n: int) -> tuple[tuple[int, int], ...]:
    """Batcher's merge exchange for ``n`` wires (Knuth, The Art of Computer Programming 3, algorithm 5.2.2M)."""
    pairs: list[tuple[int, int]] = []
    top = 1 << max(0, (n - 1).bit_length() - 1)
    p = top if n > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(pairs)


@cache
def selection(n: int, ranks: range) -> tuple[tuple[int, int, bool, bool], ...]:
    """The comparators on which wires ``ranks`` depend: both wires, and whether their least and their largest are needed."""
    live, kept = set(ranks), []
    for i, j in reversed(comparators(n)):
        if i in live or j in live:
            kept.append((i, j, i in live, j in live))
            live |= {i, j}
    return tuple(reversed(kept))


def run(rows: Sequence[Tensor], statistic: Statistic) -> Tensor:
    """The statistic of each column of ``rows``, each [c], which stay as they are: [c]. NaN where a value is NaN or Inf."""
    n = len(rows)
    spare = list(rows[0].new_empty(n + 1, len(rows[0])).unbind(0))
    unknown = torch.zeros_like(rows[0])
    for row in rows:
        unknown.add_(row, alpha=0)
    wires, ours = list(rows), [False] * n

    def place(k: int) -> Tensor:
        return wires[k] if ours[k] else spare.pop()

    for i, j, least, largest in selection(n, statistic.ranks(n)):
        a, b = wires[i], wires[j]
        if least and largest:
            low = spare.pop()
            torch.minimum(a, b, out=low)
            high = torch.maximum(a, b, out=place(j))
            spare += [a] if ours[i] else []
            wires[i], wires[j], ours[i], ours[j] = low, high, True, True
            continue
        kept, lost = (i, j) if least else (j, i)
        wires[kept] = (torch.minimum if least else torch.maximum)(a, b, out=place(kept))
        spare += [wires[lost]] if ours[lost] else []
        ours[kept], ours[lost] = True, False
    wide = torch.promote_types(rows[0].dtype, torch.float32)
    return (statistic([wires[k].to(wide) for k in statistic.ranks(n)]) + unknown).to(rows[0].dtype)


@dataclass
class Policy:
    """When a network is compiled: never for a small cohort, and not before uncompiled passes have cost as much as a compiler.

    ``smallest``: numbers in a cohort. ``after``: numbers that passed through one network in this process. Results are the same
    bits either way, so the policy is no part of an experiment.
    """

    smallest: int = 1 << 22
    after: int = 1 << 31
    compiles: bool = True


POLICY = Policy()
Kernel = Callable[[Tensor], Tensor]
Key = tuple[int, Statistic, torch.dtype, int]
_passed: dict[Key, int] = {}
_kernels: dict[Key, Kernel | None] = {}


def kernel(n: int, width: int, statistic: Statistic, like: Tensor) -> Kernel | None:
    """The compiled network for ``n`` rows of ``width`` numbers, called with a block of them; None where they go uncompiled.

    For `Middle` (of `Nearest` the compiler makes several loops with copies of the rows between them), on the CPU, in float32
    and float64. What cannot be compiled here, for want of a C++ compiler say, is not tried again.
    """
    if not (POLICY.compiles and like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)):
        return None
    if not isinstance(statistic, Middle) or not 1 < n <= LARGEST or n * width < POLICY.smallest:
        return None
    key = (n, statistic, like.dtype, torch.get_num_threads())
    _passed[key] = _passed.get(key, 0) + n * width
    if key not in _kernels and _passed[key] > POLICY.after:
        _kernels[key] = _compiled(n, statistic, like.dtype)
    return _kernels.get(key)


def forget() -> None:
    """Drop what was counted and compiled."""
    _passed.clear()
    _kernels.clear()


def _compiled(n: int, statistic: Statistic, dtype: torch.dtype) -> Kernel | None:
    """One fused loop over columns, tried on values of all sorts, NaN and Inf among them; None where that fails or differs."""
    sample = torch.arange(n * 4096, dtype=dtype).mul_(0.7).sin_().mul_(3).exp_().reshape(n, 4096)
    sample[0, 0], sample[n - 1, 1], sample[n // 2, 2], sample[:, 3] = torch.nan, torch.inf, -torch.inf, 1e30
    try:
        import torch._inductor.config as inductor

        loop: Callable[..., Tensor] = torch.compile(_graph(n, statistic), dynamic=True)

        def call(block: Tensor) -> Tensor:
            with torch.no_grad():  # .data: rows that are views of nothing, or code is compiled anew for each kind of view
                return loop(*(row.data for row in block.unbind(0)))

        with inductor.patch(compile_threads=1):
            blocks = sample, sample[:, 5:]  # code is made once for the first columns, and once for others
            return call if all(_same(call(block), run(block.unbind(0), statistic)) for block in blocks) else None
    except Exception:  # whatever a compiler raises: the uncompiled form stays
        return None


def _same(found: Tensor, expected: Tensor) -> bool:
    return torch.equal(found.isnan(), expected.isnan()) and torch.equal(found.nan_to_num(), expected.nan_to_num())


def _graph(n: int, statistic: Statistic) -> torch.fx.GraphModule:
    """The network as one graph, so that each has its own code for the compiler to cache."""
    graph = torch.fx.Graph()
    tracer = torch.fx.proxy.GraphAppendingTracer(graph)
    rows: list[Any] = [torch.fx.Proxy(graph.placeholder(f"x{k}"), tracer) for k in range(n)]
    wires = list(rows)
    unknown = rows[0] - rows[0]  # NaN where a value is NaN or Inf; compilers take x * 0 for 0
    for row in rows[1:]:
        unknown = unknown + (row - row)
    for i, j, least, largest in selection(n, statistic.ranks(n)):
        a, b = wires[i], wires[j]
        if least:
            wires[i] = torch.minimum(a, b)
        if largest:
            wires[j] = torch.maximum(a, b)
    result: Any = statistic([wires[k] for k in statistic.ranks(n)]) + unknown
    graph.output(result.node)
    return torch.fx.GraphModule(torch.nn.Module(), graph)
