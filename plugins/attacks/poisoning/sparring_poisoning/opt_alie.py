"""A Little Is Enough, whose number of deviations is searched for against the server's own rule."""

from __future__ import annotations

from typing import final

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack
from sparring.signals import Updates
from sparring_poisoning.plugin_crafted import OptALIEConfig
from sparring_poisoning.rehearsal import maximise, rehearse, span
from sparring_poisoning.seen import all_send, seen


@final
class OptALIE(ActiveAttack[Updates]):
    r"""Every client sends $\mu - z\,\sigma$ with the z that maximises
    $\lVert \mathrm{AGG}(\{\mu - z\sigma\}^m \cup B) - \mu \rVert$.

    AGG: the run's own COHORT layers and rule. B: the benign rows, or stand-ins for them where it sees only its own
    (`sparring_poisoning.rehearsal.stand_ins`); $\mu$, $\sigma$: mean and population standard deviation of the rows that it
    sees. z lies in [0, ``most``] (minus), in [-``most``, 0] (plus) or between both, and takes ``evaluations`` rehearsals to
    find (`sparring_poisoning.rehearsal.maximise`). Acts on parameters; buffers stay. Raises `ConfigError` where the rule, or
    what it is to see, is not granted.

    Source: Baruch, Baruch and Goldberg, NeurIPS 2019, 1902.06156; the search is that of ByzFL (Gonzalez et al. 2025,
    2505.24802).
    """

    def __init__(self, config: OptALIEConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Updates, ctx: Context) -> Updates:
        """Its clients' updates [m, d], all of the same parameters."""
        assert isinstance(ctx, Round)
        if not signal.ids:
            return signal
        known = seen(signal, ctx, self.config.knowledge)
        mu, sigma, stage = known.params.mean(dim=0), known.params.std(dim=0, correction=0), rehearse(signal, known, ctx)
        low, high = span(self.config.sides, self.config.most)
        z = maximise(lambda z: stage.damage(mu - z * sigma, mu, admitted=False), low, high, self.config.evaluations)
        return all_send(signal, mu - z * sigma)
