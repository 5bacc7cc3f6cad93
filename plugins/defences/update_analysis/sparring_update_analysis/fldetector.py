"""FLDetector: clients whose updates stay far from what their last ones and the global steps predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.errors import CompositionError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Stateful
from sparring.rowwise import CHUNK
from sparring.signals import Cohort
from sparring_update_analysis.configs_models import FLDetectorConfig
from sparring_update_analysis.judging import judged, lengths, parameters
from sparring_update_analysis.kmeans import gap_statistic, kmeans

FAR = 1e300
"""What a distance counts that overflows the type of the rows."""


@final
class FLDetector(Defence[Cohort], Stateful):
    r"""Predicts each client's update, and leaves out those who are far from their predictions, once two groups stand out.

    $$\hat g_i^t = g_i^{t-1} + \hat H^t (w_t - w_{t-1}), \qquad d^t = (\lVert \hat g_i^t - g_i^t \rVert_2)_i, \qquad
      s_i^t = \tfrac 1N \sum_{r=0}^{N-1} d_i^{t-r} / \lVert d^{t-r} \rVert_1$$

    g are parameter columns [n, p], w the global model at the start of a round, H the L-BFGS product (`hessian_product`)
    from the last N pairs of model and mean-update differences; the mean is the weighted one of the rows handed on (who is
    in it changes with the cohort, which reads as curvature). A client that was absent is predicted from when it was last
    here, if that is at most N rounds ago. From round ``start`` on, scores that the gap statistic splits are split by
    2-means, and the upper group is flagged and left out: the paper restarts training without them. Who has no score yet
    has the median one. n < 3 or equal scores: nobody is flagged.

    State: each client's last update (O(n p) numbers) and 2 (N + 1) rows [p]. Raises `NumericalError` for a row that is not
    finite, `CompositionError` for mixed rows.

    Source: Zhang, Cao, Jia and Gong: FLDetector: Defending Federated Learning Against Model Poisoning Attacks via Detecting
    Malicious Clients, KDD 2022, 2207.09209.
    """

    def __init__(self, config: FLDetectorConfig) -> None:
        self.config = config
        self.last: dict[int, Tensor] = {}
        self.seen: dict[int, int] = {}
        self.distances: dict[int, list[float]] = {}
        self.models: dict[int, Tensor] = {}
        self.means: dict[int, Tensor] = {}

    def state(self) -> Mapping[str, Any]:
        """Last updates, rounds and distances by client; models and mean updates by round."""
        return {
            "last": {str(i): row for i, row in self.last.items()},
            "seen": {str(i): t for i, t in self.seen.items()},
            "distances": {str(i): torch.tensor(d, dtype=torch.float64) for i, d in self.distances.items()},
            "models": {str(t): row for t, row in self.models.items()},
            "means": {str(t): row for t, row in self.means.items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self.last, self.seen, self.models, self.means = (
            {int(key): value for key, value in state[name].items()} for name in ("last", "seen", "models", "means")
        )
        self.distances = {int(i): d.tolist() for i, d in state["distances"].items()}

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The kept rows [m, d]."""
        assert isinstance(ctx, Round)
        assert ctx.parameters is not None
        if len(signal) == 0:
            return signal
        if signal.ids is None:
            raise CompositionError(
                f"'{ctx.layer}' keeps a history of each client, and rows are mixed; put it before what mixes them"
            )
        seen = parameters(signal)
        lengths(seen, ctx.layer)
        self.models[ctx.index] = ctx.parameters[: seen.base.shape[1]].clone()
        self._measure(seen.rows, signal.ids, ctx.index)
        scores = {i: sum(d) / len(d) for i in signal.ids if (d := self.distances.get(i))}
        known = torch.tensor(list(scores.values()), dtype=torch.float64)
        usual = float(known.quantile(0.5)) if scores else 0.0
        suspicion = torch.tensor([scores.get(i, usual) for i in signal.ids], dtype=torch.float64)
        flagged = self._split(suspicion, signal.ids, ctx).to(signal.base.device)
        out = judged(signal, ctx.layer, suspicion.to(signal.base.device), flagged)
        weights = torch.ones(len(out), device=signal.base.device) if out.weights is None else out.weights
        self.means[ctx.index] = parameters(out).combine(weights.double() / weights.double().sum().clamp(min=1e-300))
        self._remember(seen.rows, signal.ids, ctx.index)
        return out

    def _measure(self, rows: Tensor, ids: Sequence[int], t: int) -> None:
        """Add each client's share of this round's distances to its window."""
        known = [k for k, i in enumerate(ids) if self.seen.get(i) in self.models]
        if not known:
            return
        past = sorted({self.seen[ids[k]] for k in known})
        steps = torch.stack([self.models[t] - self.models[r] for r in past])
        curved = hessian_product(*self._pairs(), steps) if len(self.means) > 1 else torch.zeros_like(steps)
        which = torch.tensor([past.index(self.seen[ids[k]]) for k in known], device=rows.device)
        before = torch.stack([self.last[ids[k]] for k in known])
        off = rows[torch.tensor(known, device=rows.device)] - before - curved.to(rows.dtype)[which]
        d = torch.linalg.vector_norm(off, dim=1, dtype=torch.float64).nan_to_num(FAR, FAR)
        for k, share in zip(known, (d / d.sum().clamp(min=1e-300)).tolist(), strict=True):
            self.distances[ids[k]] = [*self.distances.get(ids[k], ()), share][-self.config.window :]

    def _pairs(self) -> tuple[Tensor, Tensor]:
        """Differences [m, p] of models and of mean updates between the rounds that are remembered."""
        rounds = sorted(self.means)
        models, means = (torch.stack([kept[t] for t in rounds]) for kept in (self.models, self.means))
        return models.diff(dim=0), means.diff(dim=0)

    def _split(self, suspicion: Tensor, ids: Sequence[int], ctx: Round) -> Tensor:
        """Who belongs to the upper of two groups [n], where there are two."""
        order = torch.tensor(ids).argsort()
        points = suspicion[order, None]
        flagged = torch.zeros(len(ids), dtype=torch.bool)
        if ctx.index >= self.config.start and gap_statistic(points, 2, self.config.references, ctx.generator()) > 1:
            labels = kmeans(points[None], 2)[0][0]
            means = torch.stack([points[labels == c].mean() for c in (0, 1)])
            flagged[order] = labels == means.argmax()
        return flagged

    def _remember(self, rows: Tensor, ids: Sequence[int], t: int) -> None:
        self.last.update(zip(ids, rows.clone(), strict=True))
        self.seen.update(dict.fromkeys(ids, t))
        for kept in (self.models, self.means):
            for old in sorted(kept)[: -(self.config.window + 1)]:
                del kept[old]
        gone = [i for i, r in self.seen.items() if r not in self.models]
        for i in gone:
            del self.last[i], self.seen[i]


def hessian_product(S: Tensor, Y: Tensor, V: Tensor) -> Tensor:
    r"""L-BFGS products $\hat H v$ [k, p] for rows v of V [k, p], from steps S and differences Y, both [m, p], oldest first.

    $$\hat H = \sigma I - [\sigma S^\top, Y^\top] \begin{pmatrix} \sigma S S^\top & L \\ L^\top & -D \end{pmatrix}^{-1}
      \begin{pmatrix} \sigma S \\ Y \end{pmatrix}, \qquad \sigma = s_m^\top y_m / s_m^\top s_m$$

    L and D are the strictly lower part and the diagonal of S Y^T (Byrd, Nocedal and Schnabel, 1994). Odd in Y: differences of
    updates, which are minus gradients, give minus the Hessian. A step of zero is left out; a singular matrix is inverted
    where it can be. Time O(m^2 p); sums in float64 over blocks of columns, what is m x m on the CPU.
    """
    m, both, products = len(S), torch.cat([S, Y]), S.new_zeros(2 * len(S) + len(V), 2 * len(S), dtype=torch.float64)
    for block in _blocks(both.shape[1]):
        part = torch.cat([both[:, block], V[:, block]]).double()
        products += part @ part[: 2 * m].T
    products = products.cpu()
    moved = (products.diagonal()[:m] > 0).nonzero().flatten()
    if not len(moved):
        return torch.zeros_like(V)
    SS, SY = products[moved][:, moved], products[moved][:, m + moved]
    sigma, L = SY[-1, -1] / SS[-1, -1], SY.tril(-1)
    middle = torch.cat([torch.cat([sigma * SS, L], dim=1), torch.cat([L.T, -SY.diagonal().diag()], dim=1)])
    along = torch.cat([sigma * products[2 * m :, moved], products[2 * m :, m + moved]], dim=1)
    found = along @ torch.linalg.pinv(middle, hermitian=True)
    weights = torch.zeros(len(V), 2 * m, dtype=torch.float64)
    weights[:, moved], weights[:, m + moved] = sigma * found[:, : len(moved)], found[:, len(moved) :]
    weights, made = weights.to(V.device), torch.empty_like(V)
    for block in _blocks(both.shape[1]):
        made[:, block] = (sigma * V[:, block].double() - weights @ both[:, block].double()).to(V.dtype)
    return made.nan_to_num(0.0, 0.0, 0.0)


def _blocks(columns: int) -> Iterator[slice]:
    return (slice(at, at + CHUNK) for at in range(0, columns, CHUNK))
