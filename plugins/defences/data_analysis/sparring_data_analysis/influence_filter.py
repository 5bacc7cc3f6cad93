"""Influence filter: examples whose label is explained by nobody but themselves."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from sparring.context import Context
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ClientData, Examples
from sparring_data_analysis.plugin import InfluenceFilterConfig
from sparring_data_analysis.shown import AT_ONCE, highest, kept, lab_of, pooled, removed, represented

LARGEST = 12_000
"""Parameters of a last layer up to which its Hessian is formed."""
STEPS, HALVINGS, CONVERGED = 50, 30, 1e-10


def with_bias(features: Tensor) -> Tensor:
    """Features [N, k] with a column of ones: what the bias of a linear layer sees."""
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)


def hessian(features: Tensor, p: Tensor, damping: float) -> Tensor:
    r"""$H = \frac1N \sum_i S_i \otimes \varphi_i \varphi_i^\top + \lambda I$ [K k, K k].

    $S_i = \mathrm{diag}(p_i) - p_i p_i^\top$ for predicted probabilities p [N, K].
    """
    n, k, classes = len(p), features.shape[1], p.shape[1]
    blocks = features.new_zeros(classes, k, classes, k)
    for a in range(classes):
        for b in range(a, classes):
            weight = p[:, a] * (float(a == b) - p[:, b]) / n
            block = features.T @ (weight[:, None] * features)
            blocks[a, :, b], blocks[b, :, a] = block, block
    flat = blocks.reshape(classes * k, classes * k)
    return flat + damping * torch.eye(len(flat)).to(flat)


def fitted(features: Tensor, labels: Tensor, classes: int, damping: float) -> Tensor:
    r"""The head W [K, k] that minimises $J(W) = \frac1N \sum_i \ell(W\varphi_i, y_i) + \frac\lambda2 \|W\|^2$.

    J is strictly convex for $\lambda > 0$; Newton's method, with steps halved until J falls.
    """
    wanted = F.one_hot(labels, classes).to(features)

    def objective(w: Tensor) -> Tensor:
        return F.cross_entropy(features @ w.T, labels) + damping / 2 * w.square().sum()

    head = features.new_zeros(classes, features.shape[1])
    for _ in range(STEPS):
        p = (features @ head.T).softmax(1)
        gradient = (p - wanted).T @ features / len(features) + damping * head
        step = torch.linalg.solve(hessian(features, p, damping), gradient.reshape(-1)).view_as(head)
        scale, before = 1.0, objective(head)
        for _ in range(HALVINGS):
            if bool(objective(head - scale * step) <= before):
                break
            scale /= 2
        head = head - scale * step
        if float(gradient.norm()) < CONVERGED:
            break
    return head


def self_influence(features: Tensor, labels: Tensor, classes: int, damping: float) -> Tensor:
    r"""How much the loss of each example [N] grows if the last layer is fitted without it: $\ell(z_i + \Delta_i) - \ell(z_i)$.

    $\Delta_i = \frac1N M_i (I - \frac1N S_i M_i)^{-1} r_i$ is what a Newton step on the objective without i does to its logits
    $z_i$: $M_i = (I_K \otimes \varphi_i)^\top H^{-1} (I_K \otimes \varphi_i)$ its leverage, $r_i = p_i - e_{y_i}$ its residual.
    To first order in 1/N that is $\frac1N g_i^\top H^{-1} g_i$, the influence of Koh and Liang on its own loss; in contrast to
    it, it holds for examples of high leverage, too. Retraining agrees up to the third derivative of the loss.
    """
    n, k = features.shape
    z = features @ fitted(features, labels, classes, damping).T
    p = z.softmax(1)
    inverse = torch.linalg.inv(hessian(features, p, damping)).view(classes, k, classes, k)
    eye = torch.eye(classes).to(p)
    grown = []
    for phi, logits, q, y in zip(*(part.split(AT_ONCE) for part in (features, z, p, labels)), strict=True):
        leverage = torch.einsum("nj,ajbl,nl->nab", phi, inverse, phi)
        curvature = q[:, :, None] * (eye - q[:, None, :])
        residual = q - F.one_hot(y, classes).to(q)
        moved = (leverage @ torch.linalg.solve(eye - curvature @ leverage / n, residual[:, :, None]))[:, :, 0] / n
        grown.append(F.cross_entropy(logits + moved, y, reduction="none") - F.cross_entropy(logits, y, reduction="none"))
    return torch.cat(grown)


def tracin(features: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    r"""$\|g_i\|^2 = \|p_i - e_{y_i}\|^2\,(\|\varphi_i\|^2 + 1)$ [N]: self-influence at one checkpoint, per unit of step size.

    Exact for a last layer with bias, whose gradient is the outer product $(p_i - e_{y_i}) (\varphi_i, 1)^\top$.
    """
    residual = outputs.softmax(1) - F.one_hot(labels, outputs.shape[1]).to(outputs)
    return residual.square().sum(1) * with_bias(features).square().sum(1)


@final
class InfluenceFilter(Defence[ClientData]):
    r"""Drops the $\lfloor 1.5\,\varepsilon\,N \rfloor$ examples of highest influence on their own loss.

    $\varphi$: the input of the last linear layer, and 1 for its bias, of a model that is trained in the lab on all N shown
    examples for ``epochs``. ``method: influence`` fits that layer anew to its optimum and scores by `self_influence`;
    ``tracin`` sums `tracin` over the models behind each epoch, of one course of training. $\varepsilon$: the largest share of
    all examples that may be poison; clean data lose as many. As for any score of outliers, a backdoor that the representation
    has learnt is none: few epochs. A client may be left with no example. Raises `ConfigError` for a model without a linear
    layer, for one whose last layer is too large for its Hessian, and for dense labels.

    Source: Koh and Liang, "Understanding black-box predictions via influence functions", ICML 2017, 1703.04730; Pruthi, Liu,
    Kale and Sundararajan, "Estimating training data influence by tracing gradient descent", NeurIPS 2020, 2002.08484; the
    Newton step: Rad and Maleki, "A scalable estimate of the out-of-sample prediction error via approximate leave-one-out
    cross-validation", JRSS B 2020, 1801.10243.
    """

    def __init__(self, config: InfluenceFilterConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """The clients' data without the examples of highest influence on themselves."""
        pool, classes = pooled(signal), signal.shape.classes
        keep = torch.ones(len(pool), dtype=torch.bool)
        keep[highest(self._scores(pool, classes, ctx), removed(self.config.eps, len(pool)))] = False
        return kept(signal, keep)

    def _scores(self, pool: Examples, classes: int, ctx: Context) -> Tensor:
        config, lab = self.config, lab_of(ctx)
        if config.method == "tracin":
            return torch.stack(
                [tracin(*represented(lab.train(pool, 1 + e), pool.x), pool.y) for e in range(config.epochs)]
            ).sum(0)
        features = with_bias(represented(lab.train(pool, config.epochs), pool.x)[0])
        size = classes * features.shape[1]
        if size > LARGEST:
            raise ConfigError(
                f"'{ctx.layer}' would form the Hessian of {size} parameters, at most {LARGEST}; set method: tracin"
            )
        return self_influence(features, pool.y, classes, config.damping)
