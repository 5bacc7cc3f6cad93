"""DeepSight: clusters of clients by what their output layers and their answers to random inputs say of their data."""

from __future__ import annotations

from typing import final

import torch
from sklearn.cluster import HDBSCAN
from torch import Tensor

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring_update_analysis.configs_models import DeepSightConfig
from sparring_update_analysis.judging import by_client, columns, cosines, judged, lengths, parameters
from sparring_update_analysis.scaling import shortened

AT_ONCE = 1000
DRAWS = 3
"""Draws of random inputs, each clustered for itself; as in the paper."""
FEW = 0.01
LARGEST = 1e6
"""Ratio of outputs beyond which a larger one says nothing more."""


@final
class DeepSight(Defence[Cohort]):
    r"""Leaves out clusters with a share of at least tau suspects, and shortens the rest to the median norm S.

    Of the update of the output layer, weights W [K, h] and bias b [K]: energies $e_i = |b_i| + \sum_h |W_{ih}|$; NEUPs
    $c_i = e_i^2 / \sum_j e_j^2$; threshold exceedings $TE = \#\{i: c_i > \max(0.01, 1/K) \max_j c_j\}$. A client with at
    most half the median TE is a suspect: its data have few labels.
    DDifs $\frac 1M \sum_m p_i(x_m; G + \Delta_k) / p_i(x_m; G)$ [K], for M random inputs in [0, 1], p the softmax outputs.
    Distances are cosine ones of b, Euclidean ones of NEUPs and of the DDifs of each of three draws. HDBSCAN clusters
    each; two clients are at distance 0 where they share a cluster, else 1; the mean over b, NEUPs and the mean of DDifs
    is clustered once more. A client in no cluster is a cluster of its own. Suspicion is the share of suspects in the
    client's cluster, in [0, 1].

    The output layer is the last segment of two or more dimensions (of K rows, if there is one), and the bias beside it; where
    there is no such segment the last one stands for it. Without a bias, the sums of its weights take its place; where rows are
    not the run's model, DDifs are left out. S is the median of all n norms of parameter columns; weights stay. Fewer than
    ``min_cluster`` rows form no cluster: each is judged by itself. Each client's model answers 3 M inputs.
    Raises `NumericalError` for a row that is not finite.

    Source: Rieger, Nguyen, Miettinen and Sadeghi: DeepSight: Mitigating Backdoor Attacks in Federated Learning Through Deep
    Model Inspection, NDSS 2022, 2201.00763.
    """

    def __init__(self, config: DeepSightConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The kept rows [m, d], shortened."""
        assert isinstance(ctx, Round)
        if len(signal) == 0:
            return signal
        norms = lengths(parameters(signal), ctx.layer)
        order = by_client(signal)
        weights, bias = (part[order] for part in output_layer(signal, None if ctx.lab is None else ctx.lab.plan.shape.classes))
        c, bias = neups(weights, bias).cpu(), bias.cpu()
        suspects = few_labels(c)
        parts = [self._clustered(1 - cosines(bias @ bias.T), True), self._clustered(c, False)]
        answers = self._ddifs(signal, ctx)
        if answers is not None:
            draws = [self._clustered(draw, False) for draw in answers[order].cpu().unbind(1)]
            parts.append(torch.stack(draws).mean(0))
        labels = self._labels(torch.stack(parts).mean(0), True)
        shares = torch.stack([suspects[labels == label].double().mean() for label in labels])
        suspicion = torch.zeros_like(norms)
        suspicion[order] = shares.to(norms)
        kept = shortened(signal, norms, norms.quantile(0.5))
        return judged(kept, ctx.layer, suspicion, suspicion >= self.config.tau)

    def _clustered(self, x: Tensor, precomputed: bool) -> Tensor:
        """0 [n, n] for those who share a cluster of features, or of distances, else 1."""
        labels = self._labels(x, precomputed)
        return (labels[:, None] != labels[None]).double()

    def _labels(self, x: Tensor, precomputed: bool) -> Tensor:
        """Labels [n] of clusters; who is in none has a label of his own."""
        n, least = len(x), self.config.min_cluster
        alone = torch.arange(n, 2 * n)
        if n < least:
            return alone
        metric = "precomputed" if precomputed else "euclidean"
        found = HDBSCAN(min_cluster_size=least, metric=metric, copy=True).fit_predict(x.numpy())
        labels = torch.from_numpy(found).long()
        return torch.where(labels < 0, alone, labels)

    @torch.no_grad()
    def _ddifs(self, signal: Cohort, ctx: Round) -> Tensor | None:
        """Mean ratios of outputs [n, 3, K] of each client's model and the global one."""
        if ctx.lab is None or ctx.parameters is None or signal.layout != ctx.lab.layout:
            return None
        M, generator = self.config.samples, ctx.generator()
        x = torch.rand(DRAWS * M, *ctx.lab.plan.shape.inputs, generator=generator)
        x = x.to(ctx.parameters)
        module = ctx.lab.model(ctx.parameters)

        def outputs() -> Tensor:
            parts = [module(part).softmax(1) for part in x.split(AT_ONCE)]
            return torch.cat([part.flatten(1).view(*part.shape[:2], -1).mean(2).double() for part in parts])

        start, found = outputs().clamp(min=1 / LARGEST), []
        for row in signal.rows:
            ctx.lab.layout.load(module, ctx.parameters + row)
            ratios = (outputs() / start).nan_to_num(0.0).clamp(max=LARGEST)
            found.append(ratios.view(DRAWS, M, -1).mean(1))
        return torch.stack(found)


def output_layer(cohort: Cohort, classes: int | None) -> tuple[Tensor, Tensor]:
    """Updates of the output layer's weights [n, K, h] and bias [n, K], float64."""
    layout = cohort.layout
    segments = [s for s in layout.segments if s.role in ("parameter", "frozen")]
    wide = [s for s in segments if len(s.shape) > 1]
    head = next((s for s in reversed(wide) if s.shape[0] == classes), (wide or segments)[-1])
    beside = [s for s in segments if s.name.rpartition(".")[0] == head.name.rpartition(".")[0] and s.shape == head.shape[:1]]

    def rows(start: int, stop: int) -> Tensor:
        return torch.cat(list(columns(cohort, torch.arange(start, stop))), dim=1)

    weights = rows(head.start, head.stop).view(len(cohort), head.shape[0], -1)
    biases = [s for s in beside if s is not head]
    return weights, rows(biases[-1].start, biases[-1].stop) if biases else weights.sum(2)


def neups(weights: Tensor, bias: Tensor) -> Tensor:
    """Normalised energies [n, K] of updates of weights [n, K, h] and bias [n, K]; they sum to 1, or are 0 for a zero update."""
    energy = bias.abs() + weights.abs().sum(2)
    energy = energy / energy.amax(1, keepdim=True).clamp(min=1e-300)
    square = energy.square()
    return square / square.sum(1, keepdim=True).clamp(min=1e-300)


def few_labels(c: Tensor) -> Tensor:
    """Whether each of n clients with NEUPs c [n, K] exceeds the threshold at half the median number of outputs, or fewer."""
    exceedings = (c > max(FEW, 1 / c.shape[1]) * c.amax(1, keepdim=True)).sum(1).double()
    return exceedings <= exceedings.quantile(0.5) / 2
