"""The certificate of CRFL: from votes of noisy models to the displacement that cannot change a prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from sparring.lab import Lab
from sparring_update_analysis.configs_models import CRFLConfig


@dataclass(frozen=True)
class Certificate:
    """``label`` [m] that wins, lower bounds ``p_a`` of its probability, upper bounds ``p_b`` of any other's, ``radius`` [m]."""

    label: Tensor
    p_a: Tensor
    p_b: Tensor
    radius: Tensor


@torch.no_grad()
def smoothed_votes(lab: Lab, row: Tensor, inputs: Tensor, sigma: float, copies: int, generator: torch.Generator) -> Tensor:
    """Votes [m, K] on ``inputs`` [m, ...] of M = ``copies`` models: ``row`` [d] with N(0, sigma^2 I) on its parameters."""
    module, p = lab.model(row), lab.layout.parameters
    votes = torch.zeros(len(inputs), lab.plan.shape.classes, dtype=torch.long, device=inputs.device)
    for _ in range(copies):
        noisy = row.clone()
        noisy[:p] += sigma * torch.randn(p, generator=generator, dtype=row.dtype).to(row.device)
        lab.layout.load(module, noisy)
        votes.scatter_add_(1, module(inputs).argmax(1, keepdim=True), torch.ones_like(votes))
    return votes


def bounds(votes: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds [m, K] of the probabilities behind votes [m, K], all K of a row right with probability 1 - alpha.

    Clopper and Pearson's, at level alpha / (2 K) on each side: the winner is chosen by the same votes, so that every class
    has to be covered. The paper takes Hoeffding's for two classes.
    """
    k, M = votes.double().cpu().numpy(), votes.sum(1, keepdim=True).double().cpu().numpy()
    level = alpha / (2 * votes.shape[1])
    lower = torch.from_numpy(stats.beta.ppf(level, k, M - k + 1)).nan_to_num(0.0)
    upper = torch.from_numpy(stats.beta.ppf(1 - level, k + 1, M - k)).nan_to_num(1.0)
    return torch.where(votes.cpu() > 0, lower, 0.0), torch.where(votes.cpu() < votes.sum(1, keepdim=True).cpu(), upper, 1.0)


def rounds_after(config: CRFLConfig, last: int, rounds: int) -> list[tuple[float, float]]:
    """(rho_t, sigma_t) of the rounds behind round ``last`` of ``rounds``, counted from 1: what `radius` calls ``later``."""
    return [(config.rho(t), config.noise) for t in range(last + 1, rounds + 1)]


def contraction(rho: float, sigma: float) -> float:
    r"""$2 \Phi(\rho/\sigma) - 1$: how much of a divergence survives a round of clipping to rho and noise of sigma, in (0, 1].

    Two points of the ball lie at most 2 rho apart, so that the noised ones differ by that much in total variation at most:
    Dobrushin's coefficient of the round, whatever honest clients do in it, and no f-divergence contracts by less.
    """
    return math.erf(rho / (sigma * math.sqrt(2)))


def radius(p_a: Tensor, p_b: Tensor, poisoned: Sequence[float], later: Sequence[tuple[float, float]] = ()) -> Tensor:
    r"""The certified radius [m]: no displacement of the model by up to RAD before clipping in each poisoned round flips a vote.

    $$RAD = \sqrt{ \frac{-2 \log(1 - (\sqrt{p_A} - \sqrt{p_B})^2)}
                       {\sum_{t \in adv} \sigma_t^{-2} \prod_{t > t_{adv}} (2 \Phi(\rho_t/\sigma_t) - 1)} }$$

    ``poisoned``: sigma_t of the rounds in which attackers take part; ``later``: (rho_t, sigma_t) of every round behind the last
    of them, up to T, whose sigma_T is that of the voting copies. 0 where p_A <= p_B.

    Proof. P and Q are the laws of the voting model in the world whose votes are counted and in one that differs from it
    by the attack. (1) From equal states, a poisoned round moves w_t by at most RAD, clipping moves no two points apart,
    so the noised models differ by KL <= RAD^2 / (2 sigma_t^2); by the chain rule the trajectories up to the last poisoned
    round differ by the sum of these at most, and so do the models at its end. (2) Each later round is one Markov kernel
    in both worlds: KL shrinks by its `contraction`. (3) The vote is a function of the model. If Q(c) >= Q(A) for some c,
    then KL(Q, P) is at least the least one on {A}, {c}, the rest with q_A <= q_c; q_A = q_c proportional to sqrt(P(A)
    P(c)) attains it: -log(1 - (sqrt P(A) - sqrt P(c))^2), which grows with P(A) > P(c) and falls with P(c). A smaller KL
    leaves no such c.

    The paper's theorem is the case of one poisoned round in which R attackers move the model by RAD = sum_i 2 p_i gamma_i tau_i
    eta_i (q_i / n_i) L_Z |delta_i| at most; where updates are clipped to C, attackers of share p move it by 2 C p at most.

    What the votes must be: draws of the law in (3), over the noise of all rounds from the first poisoned one on. Copies of one
    trained model are that where only the last round is poisoned (``later`` empty); for earlier rounds each vote is another
    training. The paper counts copies of one training there too, which leaves that training's own noise out.
    """
    gap = torch.where(p_a > p_b, (p_a.clamp(min=0).sqrt() - p_b.clamp(min=0).sqrt()).square(), 0.0)
    shrunk = math.prod(contraction(rho, sigma) for rho, sigma in later)
    return (-2 * torch.log1p(-gap) / (sum(sigma**-2 for sigma in poisoned) * shrunk)).sqrt()


def certify(
    votes: Tensor, poisoned: Sequence[float], later: Sequence[tuple[float, float]] = (), alpha: float = 0.001
) -> Certificate:
    """What votes [m, K] certify, each row right with probability 1 - ``alpha``; the rest is as in `radius`.

    A radius of 0 certifies nothing: the bounds of the winner and of another class overlap. Ties go to the lower class.
    """
    lower, upper = bounds(votes, alpha)
    label = votes.cpu().argmax(1)
    p_a = lower.gather(1, label[:, None])[:, 0]
    others = upper.scatter(1, label[:, None], 0.0).amax(1)
    p_b = torch.minimum(others, 1 - p_a)
    return Certificate(label, p_a, p_b, radius(p_a, p_b, poisoned, later))
