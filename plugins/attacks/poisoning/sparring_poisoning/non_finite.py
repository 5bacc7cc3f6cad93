"""NaN and infinity: numbers that no mean survives."""

from __future__ import annotations

from typing import final

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin_blind import NonFiniteConfig


@final
class NonFinite(ActiveAttack[Updates]):
    r"""$\Delta_{ij} \leftarrow$ NaN, $+\infty$ or $-\infty$, in every parameter j or in the first one alone.

    One such number in one row makes a mean, a distance or a norm NaN for all. A server must look for it before it aggregates:
    core rejects such rows of compromised clients, and counts them in the notes of the outcome. What is left is a smaller
    cohort: the attack then costs what its clients' own data were worth. Buffers stay.

    Source: folklore; Blanchard, El Mhamdi, Guerraoui and Stainer, NeurIPS 2017, 1703.02757, whose Byzantine clients may send
    any vector, and one of which suffices against any linear rule (lemma 1).
    """

    def __init__(self, config: NonFiniteConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], not finite."""
        del ctx
        params = signal.params.clone()
        columns = slice(None) if self.config.entries == "all" else slice(0, 1)
        params[:, columns] = float(self.config.value)
        return signal.with_params(params)
