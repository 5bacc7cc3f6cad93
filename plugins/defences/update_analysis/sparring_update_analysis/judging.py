"""What analyses share: views of a cohort that copy no row, and verdicts about the clients behind its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from sparring import rowwise
from sparring.cohort import Cohort
from sparring.errors import NumericalError
from sparring.layout import Layout
from sparring.rowwise import CHUNK
from sparring.verdicts import Verdict


def by_client(cohort: Cohort) -> Tensor:
    """Positions [m] of the rows in ascending order of their clients; of rows without ids, as they stand."""
    ids = range(len(cohort)) if cohort.ids is None else cohort.ids
    return torch.tensor(ids, dtype=torch.long).argsort().to(cohort.base.device)


def parameters(cohort: Cohort, start: int = 0) -> Cohort:
    """The cohort of the parameter columns from ``start`` on, as a view: no buffer is judged, and no row is copied."""
    stop = cohort.layout.parameters
    if start == 0 and stop == cohort.layout.size:
        return cohort
    layout = Layout.build([("parameters", (stop - start,), "parameter")], cohort.layout.space)
    return replace(cohort, base=cohort.base[:, start:stop], layout=layout, known_gram=None, shared=None)


def lengths(cohort: Cohort, layer: str) -> Tensor:
    """L2 norms [m] of the rows, float64; raises `NumericalError` where a row is not finite, or its square overflows."""
    norms = cohort.norms
    if not bool(norms.isfinite().all()):
        worst = int((~norms.isfinite()).nonzero()[0])
        who = f"row {worst}" if cohort.ids is None else f"client {cohort.ids[worst]}"
        raise NumericalError(f"'{layer}': the update of {who} holds NaN, Inf or numbers above 1e150; an update must be finite")
    return norms


def cosines(inner: Tensor) -> Tensor:
    """Cosines [m, m] from inner products [m, m] of rows about the origin; 0 beside a zero row, 1 on the diagonal elsewhere."""
    norms = inner.diagonal().clamp(min=0).sqrt()
    unit = torch.where(norms > 0, 1 / norms, 0.0)
    return (unit[:, None] * inner * unit[None, :]).clamp(-1, 1)


def columns(cohort: Cohort, index: Tensor) -> Iterator[Tensor]:
    """The columns ``index`` [k] of the rows, float64, in blocks [m, at most `CHUNK`]."""
    for block in index.to(cohort.base.device).split(CHUNK):
        part = cohort.base[:, block].double()
        yield part if cohort.mix is None else cohort.mix.double() @ part


def along(cohort: Cohort, vector: Tensor) -> Tensor:
    """Inner products [m], float64, of the rows with ``vector``, which has a number for each of their first columns."""
    found = rowwise.along(cohort.base[:, : len(vector)], vector)
    return found if cohort.mix is None else cohort.mix.double() @ found


def judged(cohort: Cohort, layer: str, suspicion: Tensor, flagged: Tensor, *, drop: bool = True) -> Cohort:
    """The cohort with a verdict: ``suspicion`` [m] of its rows, ``flagged`` [m] the malicious, left out if ``drop``.

    Of mixed rows, a client's suspicion is the mean over the rows that it is part of, and it is flagged where all of them are.
    Where nobody is left out the rows are not touched.
    """
    made = cohort.judged(_verdict(cohort, layer, suspicion.double(), flagged))
    return made.select((~flagged).nonzero().flatten()) if drop and bool(flagged.any()) else made


def _verdict(cohort: Cohort, layer: str, suspicion: Tensor, flagged: Tensor) -> Verdict:
    clients, bad = cohort.ids, flagged
    if clients is None:
        n = len(cohort.base)
        mix = torch.eye(n, dtype=torch.float64, device=suspicion.device) if cohort.mix is None else cohort.mix.double()
        share = mix.abs().T
        part = (share.sum(dim=1) > 0).nonzero().flatten()
        suspicion = (share @ suspicion)[part] / share.sum(dim=1)[part]
        bad = (share @ (~flagged).double())[part] == 0
        sources = cohort.sources or tuple(range(n))
        clients = tuple(sources[k] for k in part.tolist())
    guilty = frozenset(client for client, wrong in zip(clients, bad.tolist(), strict=True) if wrong)
    return Verdict(layer, dict(zip(clients, suspicion.tolist(), strict=True)), guilty)
