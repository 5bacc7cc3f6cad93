"""Renyi differential privacy as Opacus computes it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import final

import numpy as np
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

from sparring.claims import Event
from sparring.roles import Accountant
from sparring_dp.ledger import ledger
from sparring_dp.rdp import ORDERS, laplace


def _one_step(q: float, sigma: float, alpha: float) -> float:
    """Opacus' divergence of one step; an order that its series cannot evaluate is left out of the minimum."""
    try:
        rho = float(compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=alpha))
    except (ValueError, OverflowError):
        return math.inf
    return math.inf if math.isnan(rho) else max(0.0, rho)


@final
class OpacusRDP(Accountant):
    """Opacus' Renyi analysis with its conversion (Balle et al., AISTATS 2020, 1905.09982), over the orders of `rdp`.

    An independent implementation to hold against `rdp`. Laplace events take the divergence that `rdp` gives them.
    Source: Yousefpour et al.: Opacus, 2021, 2109.12298.
    """

    def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
        """The epsilon at ``delta``; raises `ConfigError` for events that have none in common."""
        book = ledger(events, delta)
        if book.broken:
            return math.inf
        if not book.gaussian and not book.laplace:
            return 0.0
        total = np.zeros(len(ORDERS))
        for q, sigma, steps in book.gaussian:
            total += steps * np.array([_one_step(q, sigma, alpha) for alpha in ORDERS])
        for scale, count in book.laplace:
            total += count * laplace(scale)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Optimal order is the", category=UserWarning)
            found, _ = get_privacy_spent(orders=list(ORDERS), rdp=total, delta=delta)
        found = max(0.0, float(found))
        return found if book.gaussian else min(found, book.pure)
