"""The attack tailored to the server's own rule: the perturbation that moves it most and is let in."""

from __future__ import annotations

from typing import final

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.perturbation import perturbation
from sparring_poisoning.plugin_crafted import AGRTailoredConfig
from sparring_poisoning.rehearsal import maximise, rehearse
from sparring_poisoning.seen import all_send, seen


@final
class AGRTailored(ActiveAttack[Updates]):
    r"""Every client sends $\mu + \gamma\nabla^p$ with the $\gamma$ that maximises
    $\lVert \mathrm{AGG}(\{\mu + \gamma\nabla^p\}^m \cup B) - \mu \rVert$.

    Only such $\gamma$ in [0, ``most``] count as leave one of the own rows among those that the rule does not exclude; where
    none does, $\gamma = 0$, the mean itself. AGG: the run's own COHORT layers and rule. B: the benign rows, or stand-ins for
    them where it sees only its own (`sparring_poisoning.rehearsal.stand_ins`). $\mu$: mean of the rows that it sees;
    $\nabla^p$: the perturbation (`sparring_poisoning.perturbation.perturbation`). It takes ``evaluations`` rehearsals
    (`sparring_poisoning.rehearsal.maximise`), where the paper halves a step. Acts on parameters; buffers stay. Raises
    `ConfigError` where the rule, or what it is to see, is not granted.

    Source: Shejwalkar and Houmansadr, "Manipulating the Byzantine: optimizing model poisoning attacks and defenses for
    federated learning", NDSS 2021, doi 10.14722/ndss.2021.24498.
    """

    def __init__(self, config: AGRTailoredConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], all of the same parameters."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        known = seen(signal, ctx, self.config.knowledge)
        mu, nabla = known.params.mean(dim=0), perturbation(known.params, self.config.direction)
        stage = rehearse(signal, known, ctx)
        gamma = maximise(
            lambda gamma: stage.damage(mu + gamma * nabla, mu, admitted=True), 0.0, self.config.most, self.config.evaluations
        )
        return all_send(signal, mu + gamma * nabla)
