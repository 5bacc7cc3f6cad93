"""What the reference cards of crafted updates measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.context import Round
from sparring.roles import ActiveAttack
from sparring.signals import Cohort, Release, Updates
from sparring.testing.fixtures import make_round
from sparring_poisoning.agr_tailored import AGRTailored
from sparring_poisoning.alie import ALIE
from sparring_poisoning.cards import normal_rows, small_accuracy, updates_of
from sparring_poisoning.declare import Direction
from sparring_poisoning.fang import course, median, trimmed_mean
from sparring_poisoning.fang_krum import FangKrum, krum
from sparring_poisoning.fang_median import FangMedian
from sparring_poisoning.fang_trimmed_mean import FangTrimmedMean
from sparring_poisoning.ipm import IPM
from sparring_poisoning.mimic import Mimic
from sparring_poisoning.min_max import MinMax
from sparring_poisoning.min_sum import MinSum
from sparring_poisoning.opt_alie import OptALIE
from sparring_poisoning.opt_ipm import OptIPM
from sparring_poisoning.plugin import ALIEConfig
from sparring_poisoning.plugin_crafted import (
    AGRTailoredConfig,
    FangConfig,
    FangOrderConfig,
    IPMConfig,
    MimicConfig,
    MinMaxConfig,
    OptALIEConfig,
    OptIPMConfig,
    Sides,
)

Rule = Callable[[Tensor], Tensor]
P = 2000


def _mean(rows: Tensor) -> Tensor:
    return rows.mean(0)


def _trimmed(m: int) -> Rule:
    return lambda rows: trimmed_mean(rows, m)


def _krum(m: int) -> Rule:
    return lambda rows: krum(rows, m)


@dataclass(frozen=True)
class Scene:
    """A round of m attackers and the honest clients, in which both grants are given; all trained rows are alike."""

    own: Updates
    honest: Updates

    @classmethod
    def of(cls, m: int, honest: int, name: str) -> Scene:
        """Rows of 2000 N(0, 1) about a common row of N(0, 1/4)."""
        rows = 0.5 * normal_rows(1, P, f"{name} common") + normal_rows(m + honest, P, name)
        return cls(updates_of(rows[:m]), updates_of(rows[m:], first=m))

    @property
    def mu(self) -> Tensor:
        """The honest mean [2000]."""
        return self.honest.rows.mean(0)

    @property
    def sigma(self) -> Tensor:
        """The honest deviations [2000]."""
        return self.honest.rows.std(0, correction=0)

    def context(self, rule: Rule, index: int = 0) -> Round:
        """The context of the attack where the server runs ``rule``."""

        def release(cohort: Cohort) -> Release:
            vector = rule(cohort.rows)
            chosen = (cohort.rows == vector).all(dim=1).tolist()
            left_out = tuple(i for i, mine in zip(cohort.sources, chosen, strict=True) if any(chosen) and not mine)
            return Release(vector, cohort.layout, float(len(cohort)), len(cohort), left_out)

        ctx = make_round(index=index, cohort=(*self.own.ids, *self.honest.ids))
        return replace(ctx, honest=self.honest, benign=self.honest.rows, aggregate=release)

    def sent(self, attack: ActiveAttack[Updates], rule: Rule = _mean, index: int = 0) -> Tensor:
        """What the attackers send [m, 2000]."""
        return attack.attack_transform(self.own, self.context(rule, index)).rows

    def after(self, rule: Rule, sent: Tensor) -> Tensor:
        """What the rule makes of it [2000]."""
        return rule(torch.cat([sent, self.honest.rows]))

    def moved(self, rule: Rule, sent: Tensor) -> float:
        """How far from the honest mean that lies, in honest deviations (root mean squares over coordinates)."""
        return float((self.after(rule, sent) - self.mu).norm() / self.sigma.norm())


def ipm() -> dict[str, float]:
    """The factor on the honest mean on both sides of (n - m) / m = 4, and what a reversed mean does to the small task."""
    scene, factors = Scene.of(2, 8, "ipm"), {}
    for epsilon in (3.9, 4.1):
        sent = scene.sent(IPM(IPMConfig(epsilon=epsilon, knowledge="benign")))
        factors[epsilon] = float(scene.after(_mean, sent) @ scene.mu / scene.mu.square().sum())
    return {
        "factor on the mean, 2 of 10, epsilon 3.9": factors[3.9],
        "factor on the mean, 2 of 10, epsilon 4.1": factors[4.1],
        "accuracy of the mean, 2 of 10, epsilon 6": small_accuracy("ipm", {"epsilon": 6.0}),
        "accuracy of the mean without attack": small_accuracy(),
    }


def opt_ipm() -> dict[str, float]:
    """What is found against the mean, whose optimum is the largest factor, and against the trimmed mean."""
    scene = Scene.of(2, 8, "opt-ipm")

    def relative(side: Sides) -> float:
        sent = scene.sent(OptIPM(OptIPMConfig(sides=side, knowledge="benign")))
        return float((scene.after(_mean, sent) - scene.mu).norm() / scene.mu.norm())

    best = scene.sent(OptIPM(OptIPMConfig(knowledge="benign")), _trimmed(2))
    fixed = scene.sent(IPM(IPMConfig(epsilon=0.5, knowledge="benign")))
    return {
        "displacement of the mean over its norm, minus": relative("minus"),
        "displacement of the mean over its norm, plus": relative("plus"),
        "displacement of the mean over its norm, both": relative("both"),
        "displacement of the trimmed mean over that by epsilon .5": scene.moved(_trimmed(2), best)
        / scene.moved(_trimmed(2), fixed),
        "displacement of the trimmed mean over that without attack": scene.moved(_trimmed(2), best)
        / scene.moved(_trimmed(2), scene.own.rows),
    }


def opt_alie() -> dict[str, float]:
    """What is found against the mean, whose optimum is the largest z, and against the trimmed mean and Krum."""
    scene, m = Scene.of(10, 40, "opt-alie"), 10
    fixed = scene.sent(ALIE(ALIEConfig(knowledge="benign")))
    found = {}
    for name, rule in (("mean", _mean), ("trimmed mean", _trimmed(m)), ("Krum", _krum(m))):
        best = scene.sent(OptALIE(OptALIEConfig(knowledge="benign")), rule)
        found[name] = scene.moved(rule, best), scene.moved(rule, fixed)
    return {
        "displacement of the mean, z up to 10, in sigma": found["mean"][0],
        "displacement of the trimmed mean over that of z_max": found["trimmed mean"][0] / found["trimmed mean"][1],
        "displacement of Krum over that of z_max": found["Krum"][0] / found["Krum"][1],
        "displacement of the trimmed mean, in sigma": found["trimmed mean"][0],
        "displacement of the trimmed mean without attack, in sigma": scene.moved(_trimmed(m), scene.own.rows),
    }


def _bisected(fits: Callable[[float], bool]) -> float:
    """The published search: gamma from 10, the step halved until it moves by less than 1e-5."""
    gamma, step, last = 10.0, 10.0, 0.0
    while abs(last - gamma) > 1e-5:
        if fits(gamma):
            last = gamma
            gamma += step / 2
        else:
            gamma -= step / 2
        step /= 2
    return last


def _share(sent: Tensor, honest: Tensor, total: Callable[[Tensor], Tensor]) -> float:
    """``total`` of a sent row's squared distances to the honest ones, over the greatest of an honest row's."""
    between = torch.stack([total((honest - row).square().sum(1)) for row in honest]).max()
    return float(total((honest - sent).square().sum(1)) / between)


def _optimised(attack: type[MinMax] | type[MinSum], total: Callable[[Tensor], Tensor]) -> Mapping[str, float]:
    scene, m = Scene.of(10, 40, "min"), 10
    rows, mu, nabla = scene.honest.rows, scene.mu, -scene.sigma
    directions: tuple[Direction, ...] = ("std", "unit", "sign")
    sent = {d: scene.sent(attack(MinMaxConfig(direction=d, knowledge="benign"))) for d in directions}
    gamma = float((sent["std"][0] - mu) @ nabla / nabla.square().sum())
    published = _bisected(lambda g: _share(mu + g * nabla, rows, total) <= 1)
    return {
        **{f"share of the bound that is used, {d}": _share(each[0], rows, total) for d, each in sent.items()},
        "gamma less the published search's": gamma - published,
        "displacement of the trimmed mean, in sigma": scene.moved(_trimmed(m), sent["std"]),
        "displacement of the trimmed mean without attack, in sigma": scene.moved(_trimmed(m), scene.own.rows),
    }


def min_max() -> Mapping[str, float]:
    """How tight the constraint is, the published search as an independent form, and what it does to the trimmed mean."""
    return _optimised(MinMax, lambda squares: squares.max())


def min_sum() -> Mapping[str, float]:
    """How tight the constraint is, the published search as an independent form, and what it does to the trimmed mean."""
    return _optimised(MinSum, lambda squares: squares.sum())


def agr_tailored() -> dict[str, float]:
    """Displacement of the rule that it knows over that of an attack which does not know it, and whether Krum chooses it."""
    scene, m = Scene.of(10, 40, "agr"), 10
    agnostic = scene.sent(MinMax(MinMaxConfig(knowledge="benign")))
    tailored = AGRTailored(AGRTailoredConfig(knowledge="benign"))
    trimmed, chosen = scene.sent(tailored, _trimmed(m)), scene.sent(tailored, _krum(m))

    def along(rule: Rule, sent: Tensor) -> float:
        return float((scene.mu - scene.after(rule, sent)) @ scene.sigma / scene.sigma.square().sum())

    return {
        "displacement of the trimmed mean over Min-Max's": along(_trimmed(m), trimmed) / along(_trimmed(m), agnostic),
        "displacement of Krum over Min-Max's": along(_krum(m), chosen) / along(_krum(m), agnostic),
        "displacement of Krum without attack, in sigma": along(_krum(m), scene.own.rows),
        "what Krum chooses, less what was sent": float((scene.after(_krum(m), chosen) - chosen[0]).norm()),
    }


def fang_krum() -> dict[str, float]:
    """Whether Krum chooses what is sent, and what it then does to the model's course."""
    scene, m = Scene.of(10, 40, "fang-krum"), 10
    sent = scene.sent(FangKrum(FangConfig(knowledge="benign")))

    def cosine(row: Tensor) -> float:
        return float(row @ scene.mu / row.norm() / scene.mu.norm())

    chosen, more = scene.after(_krum(m), sent), scene.after(_krum(m), 2 * sent)
    return {
        "what Krum chooses, less what was sent": float((chosen - sent[0]).norm()),
        "what Krum chooses, less twice what was sent, over its norm": float((more - 2 * sent[0]).norm() / more.norm()),
        "cosine of Krum's choice with the honest mean": cosine(chosen),
        "cosine of Krum's choice with the honest mean without attack": cosine(scene.after(_krum(m), scene.own.rows)),
    }


def _beyond(attack: ActiveAttack[Updates], rule: Rule) -> dict[str, float]:
    scene = Scene.of(10, 40, "fang")
    sent, s = scene.sent(attack), course(scene.own, scene.honest, rule)

    def pushed(rows: Tensor) -> float:
        return float((-s * (scene.after(rule, rows) - scene.mu)).mean() / scene.sigma.mean())

    beyond = (-s * sent >= (-s * scene.honest.rows).amax(0)).double().mean()
    return {
        "share of values beyond every honest one": float(beyond),
        "displacement against the course, in sigma": pushed(sent),
        "the same, less what values of 1e6 do": pushed(sent) - pushed((-1e6 * s).expand_as(sent)),
        "the same without attack, in sigma": pushed(scene.own.rows),
    }


def fang_trimmed_mean() -> dict[str, float]:
    """Where the values lie, and how far they push the trimmed mean, which is as far as any do."""
    return _beyond(FangTrimmedMean(FangOrderConfig(knowledge="benign")), _trimmed(10))


def fang_median() -> dict[str, float]:
    """Where the values lie, and how far they push the median, which is as far as any do."""
    return _beyond(FangMedian(FangOrderConfig(knowledge="benign")), median)


def mimic() -> dict[str, float]:
    """Which of 8 clients is copied, two of whom differ most, and what the mean gives it."""
    attack, spike = Mimic(MimicConfig(warm_up=5, knowledge="benign")), normal_rows(1, P, "mimic spike")[0]
    picks = []
    for t in range(8):
        scene = Scene.of(2, 8, f"mimic {t}")
        rows = scene.honest.rows
        rows[3:5] += 3 * torch.stack([spike, -spike])
        sent = scene.sent(attack, index=t)
        picks.append(int((rows - sent[0]).square().sum(1).argmin()))
    z, way = attack.state()["z"], rows[picks[-1]] - scene.mu
    return {
        "distance of what is sent from an honest row": float((rows - sent[0]).norm(dim=1).min()),
        "cosine of z with the direction of greatest spread": abs(float(z @ spike / spike.norm())),
        "share of rounds that copy one of the two that differ": sum(k in (3, 4) for k in picks) / len(picks),
        "clients copied from the last of the warm-up on": float(len(set(picks[4:]))),
        "displacement of the mean towards the copied one, of the way": float(
            (scene.after(_mean, sent) - scene.mu) @ way / way.square().sum()
        ),
    }
