r"""What Gaussian noise leaves to an attacker who reconstructs inputs: a bound for any attack, and the law of the analytic one.

All noise multipliers are sigma / C, the standard deviation over the bound of the clip, as in `dp-sgd`.
"""

from __future__ import annotations

import math

from scipy.optimize import brentq
from scipy.stats import chi2, norm


def reconstruction_bound(prior: float, noise_multiplier: float, steps: int = 1) -> float:
    r"""The most $\gamma$ that any attack succeeds with where it succeeds with $\kappa$ = ``prior`` without the releases.

    $\gamma = 1 - \Phi(\Phi^{-1}(1 - \kappa) - \sqrt{T} / \sigma)$ for ``steps`` T releases of full batches, each of
    sensitivity C: the example's clipped gradient is in it or not. The attacker knows all other examples. Success: to
    reconstruct within some error, whatever its measure, of which $\kappa$ is the chance by the prior alone.

    Sources: Balle, Cherubin, Hayes, S&P 2022, 2201.04845; Hayes, Mahloujifar, Balle, NeurIPS 2023, 2302.07225.
    """
    _share("prior", prior)
    _positive("noise_multiplier", noise_multiplier)
    return float(norm.sf(norm.isf(prior) - math.sqrt(_steps(steps)) / noise_multiplier))


def noise_against_reconstruction(prior: float, at_most: float, steps: int = 1) -> float:
    r"""The least noise multiplier for which `reconstruction_bound` is ``at_most`` $\gamma$, which lies above the prior.

    $\sigma = \sqrt{T} / (\Phi^{-1}(1 - \kappa) - \Phi^{-1}(1 - \gamma))$.
    """
    _share("prior", prior)
    _share("at_most", at_most)
    if at_most <= prior:
        raise ValueError(f"at_most is {at_most:g}; no noise brings success below the prior, {prior:g}: ask for more than that")
    return float(math.sqrt(_steps(steps)) / (norm.isf(prior) - norm.isf(at_most)))


def psnr_of_the_analytic_attack(noise_multiplier: float, radius: float, size: int, quantile: float = 0.5) -> float:
    r"""The PSNR in dB that the analytic attack on one noised gradient stays below with probability ``quantile``.

    The worst case: a first layer whose gradient is the input x in $[0, 1]^N$, N = ``size``. It is clipped to C, noise
    $\mathcal N(0, (\sigma C)^2)$ is added, and the attacker scales it back by the norm R = ``radius`` of x, which it knows.
    The error has mean square $(\sigma R)^2 \chi^2_N / N$, and PSNR is $-10 \log_{10}$ of that. No prior is used: an attacker
    with one does no worse than its prior.
    """
    _positive("noise_multiplier", noise_multiplier)
    _positive("radius", radius)
    _share("quantile", quantile)
    if size < 1:
        raise ValueError(f"size is {size}; an input has at least one number")
    return -10 * math.log10((noise_multiplier * radius) ** 2 * float(chi2.isf(quantile, size)) / size)


def psnr_within_the_box(noise_multiplier: float, radius: float) -> float:
    r"""The PSNR in dB of the analytic attack that cuts its estimate to [0, 1]: the most, over all inputs of norm ``radius``.

    $-10 \log_{10} \min_{x \in [0, 1]} \mathbb E (\min(\max(x + s Z, 0), 1) - x)^2$, $s = \sigma R$ and Z normal: the law of
    `psnr_of_the_analytic_attack` where the attacker knows that inputs lie in [0, 1]. At most 3 dB more while s is small.
    """
    _positive("noise_multiplier", noise_multiplier)
    _positive("radius", radius)
    s = noise_multiplier * radius
    return -10 * math.log10(min(_cut(k / 200, s) for k in range(101)))


def noise_within_the_box(at_most: float, radius: float) -> float:
    """The noise multiplier above which `psnr_within_the_box` is below ``at_most`` dB, for inputs of norm ``radius`` or more.

    Raises `ValueError` where no noise is enough: at 6.02 dB and below, since a coin in place of each pixel has that.
    """
    _positive("radius", radius)
    least = -10 * math.log10(0.25)
    if not at_most > least + 0.01:
        raise ValueError(f"at_most is {at_most:g}; noise that is cut to [0, 1] leaves {least:.2f} dB: ask for more than that")
    return float(brentq(lambda sigma: psnr_within_the_box(sigma, radius) - at_most, 1e-9 / radius, 1e4 / radius))


def _cut(x: float, s: float) -> float:
    """The mean squared error of a pixel x under noise of deviation s that is cut to [0, 1]."""
    error = 0.0
    for room in (x, 1 - x):
        t = room / s
        density = math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
        error += s * s * (math.erf(t / math.sqrt(2)) / 2 - t * density) + room * room * math.erfc(t / math.sqrt(2)) / 2
    return error


def noise_against_psnr(at_most: float, radius: float, size: int, confidence: float = 0.99) -> float:
    """The least noise multiplier with which the analytic attack stays below ``at_most`` dB with probability ``confidence``.

    ``radius``: the largest norm of an input, sqrt(N) if nothing is known; see `psnr_of_the_analytic_attack`.
    """
    return 10 ** ((psnr_of_the_analytic_attack(1.0, radius, size, confidence) - at_most) / 20)


def _share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value:g}; it is a probability above 0 and below 1")


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} is {value:g}; it must be above 0 and finite")


def _steps(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps is {steps}; give the number of releases, at least 1")
    return steps
