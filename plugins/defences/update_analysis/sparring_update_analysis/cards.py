"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import torch
from torch import Tensor

from sparring.context import Round
from sparring.keys import Key
from sparring.lab import Lab
from sparring.layout import Layout
from sparring.signals import Cohort, DataShape, ModelPlan
from sparring.testing.experiments import CLASSES, FEATURES, Blobs, linear
from sparring.testing.fixtures import make_round, make_setup
from sparring.verdicts import Verdict, auc
from sparring.views import LocalSettings
from sparring_update_analysis.clipped_clustering import ClippedClustering
from sparring_update_analysis.configs import (
    ClippedClusteringConfig,
    DnCConfig,
    FLTrustConfig,
    FoolsGoldConfig,
    NormBoundConfig,
    ReputationConfig,
    RLRConfig,
    SattlerClusteringConfig,
    SignGuardConfig,
)
from sparring_update_analysis.dnc import DivideAndConquer
from sparring_update_analysis.fltrust import FLTrust
from sparring_update_analysis.foolsgold import FoolsGold, weights
from sparring_update_analysis.norm_bound import NormBound
from sparring_update_analysis.reputation import Reputation
from sparring_update_analysis.rlr import RobustLearningRate
from sparring_update_analysis.sattler_clustering import SattlerClustering
from sparring_update_analysis.scenes import CLIENTS, HELD, cohort, detection, found, mean, unit
from sparring_update_analysis.signguard import SignGuard


def norm_bound() -> dict[str, float]:
    """Detection by norms, what the bound leaves of a scaled backdoor, and the norm of what a number as bound lets through."""
    bounded = NormBound(NormBoundConfig(bound=0.5)).defence_transform(
        cohort(3 * torch.eye(4, dtype=torch.float64)), make_round()
    )
    return {**detection(lambda: NormBound(NormBoundConfig())), "largest norm over M = 0.5": float(bounded.norms.max() / 0.5)}


def foolsgold() -> dict[str, float]:
    """The weights of a hand-computed example, detection of sybils, and what the history adds."""
    example = torch.tensor([[1, 0.5, 0.1], [0.5, 1, 0.1], [0.1, 0.1, 1]], dtype=torch.float64)
    alpha = weights(example)
    first, last = _over_rounds(48)
    return {
        **detection(lambda: FoolsGold(FoolsGoldConfig())),
        "weight of two clients of cosine 1/2": float(alpha[0]),
        "weight of a third of cosine 1/10 with them": float(alpha[2]),
        "AUC of noisy sybils, round 1": first,
        "AUC of noisy sybils, round 48": last,
    }


def _over_rounds(rounds: int) -> tuple[float, float]:
    """AUC in the first and the last round for sybils that share a direction of norm 1, under fresh noise of norm 4 a round."""
    generator = Key(0, ("card", "foolsgold")).generator()
    aims = unit(CLIENTS, generator)
    aims[:HELD] = aims[0]
    technique = FoolsGold(FoolsGoldConfig())
    areas = [found(lambda: technique, aims + 4 * unit(CLIENTS, generator), k)[1] for k in range(rounds)]
    return areas[0], areas[-1]


def dnc() -> dict[str, float]:
    """Detection along the top singular vector."""
    return detection(lambda: DivideAndConquer(DnCConfig(f=HELD)))


def signguard() -> dict[str, float]:
    """Detection by norms; and by signs, of rows that are all positive and no longer than others."""
    generator = Key(0, ("card", "signguard")).generator()
    rows = unit(CLIENTS, generator)
    rows[:HELD] = rows[:HELD].abs()
    after, area = found(lambda: SignGuard(SignGuardConfig()), rows, 0)
    return {
        **detection(lambda: SignGuard(SignGuardConfig())),
        "AUC, positive rows of equal norm": area,
        "positive rows that pass": float(sum(c in (after.ids or ()) for c in range(HELD))),
    }


def sattler_clustering() -> dict[str, float]:
    """Detection by bipartition; with a gap of 0.8, of scaled backdoors, and of flipped rows."""
    parted = SattlerClusteringConfig(gamma=0.8)
    flipped = unit(1, Key(0, ("card", "sattler")).generator()).repeat(CLIENTS, 1)
    flipped[:HELD] *= -1
    return {
        **detection(lambda: SattlerClustering(SattlerClusteringConfig())),
        "rows left of 20 with 5 flipped, gap above 0.8": float(len(found(lambda: SattlerClustering(parted), flipped, 0)[0])),
        "rows left of 20 equal ones": float(
            len(SattlerClustering(parted).defence_transform(cohort(flipped.abs()), make_round()))
        ),
    }


def clipped_clustering() -> dict[str, float]:
    """Detection by clusters, and the threshold that norms 1, 3 and then 5, 7 lead to."""
    technique = ClippedClustering(ClippedClusteringConfig())
    clipped = [_norms(technique, sizes) for sizes in ((1.0, 3.0), (5.0, 7.0))]
    return {
        **detection(lambda: ClippedClustering(ClippedClusteringConfig())),
        "norm that 3 beside 1 is clipped to": clipped[0],
        "norm that 7 is clipped to in the round after": clipped[1],
    }


def _norms(technique: ClippedClustering, sizes: tuple[float, float]) -> float:
    rows = torch.tensor(sizes, dtype=torch.float64)[:, None] * torch.ones(1, 1, dtype=torch.float64)
    return float(technique.defence_transform(cohort(rows), make_round()).norms.max())


def reputation() -> dict[str, float]:
    """Rounds to exclusion and back, two analyses that disagree, and what 40 rounds make of verdicts that are often wrong."""
    made = Reputation(ReputationConfig())
    out = _rounds_until(made, flagged=True)
    for _ in range(10 - out):
        _judge(made, {0})
    half = Reputation(ReputationConfig())
    half.defence_transform(_verdicts({0}, set()), make_round())
    single, whole = _noisy(40)
    return {
        "flagged rounds until a client is left out": float(out),
        "clean rounds until it is back, after 10": float(_rounds_until(made, flagged=False)),
        "reputation after one of two analyses flagged it": half.record[0],
        "AUC of noisy verdicts, one round": single,
        "AUC of the reputation after 40": whole,
    }


def _verdicts(*flagged: set[int]) -> Cohort:
    """Equal rows with a verdict for each set of flagged clients."""
    rows = cohort(torch.ones(CLIENTS, 4, dtype=torch.float64))
    for k, guilty in enumerate(flagged):
        rows = rows.judged(Verdict(f"analysis {k}", {c: float(c in guilty) for c in range(CLIENTS)}, frozenset(guilty)))
    return rows


def _judge(made: Reputation, *flagged: set[int]) -> Cohort:
    return made.defence_transform(_verdicts(*flagged), make_round())


def _rounds_until(made: Reputation, *, flagged: bool, most: int = 50) -> int:
    """Rounds with client 0 flagged, or with nobody, until it is out, or in again."""
    for k in range(1, most):
        if (0 in (_judge(made, {0} if flagged else set()).ids or ())) != flagged:
            return k
    return most


def _noisy(rounds: int) -> tuple[float, float]:
    """Attackers are flagged with probability 0.6, others with 0.1: mean AUC of one round's flags, and of the reputation."""
    generator, made = Key(0, ("card", "reputation")).generator(), Reputation(ReputationConfig(memory=0.9))
    chance = torch.where(torch.arange(CLIENTS) < HELD, 0.6, 0.1)
    areas = []
    for _ in range(rounds):
        drawn = (torch.rand(CLIENTS, generator=generator) < chance).double()
        areas.append(auc(drawn[:HELD].tolist(), drawn[HELD:].tolist()) or 0.0)
        _judge(made, set(drawn.nonzero().flatten().tolist()))
    record = [1 - made.record[c] for c in range(CLIENTS)]
    return fmean(areas), auc(record[:HELD], record[HELD:]) or 0.0


def fltrust() -> dict[str, float]:
    """Real updates of a linear model: attackers flip theirs and scale them by 4, or lean against the common direction."""
    lab, ctx, rows = _trained()
    assert ctx.public is not None
    few = ctx.public.take((ctx.public.y == 0).nonzero().flatten())
    flipped, leaning = rows.clone(), rows.clone()
    flipped[:HELD] *= -4
    leaning[:HELD] -= 0.1 * rows[HELD:].mean(0)
    after = _trust(flipped, ctx)
    server = lab.update(torch.zeros(lab.layout.size), ctx.public)
    clean = rows.mean(0)
    return {
        "AUC, flipped": _area(after),
        "AUC, leaning against": _area(_trust(leaning, ctx)),
        "flipped clients that are left": float(sum(c in (after.ids or ()) for c in range(HELD))),
        "cosine with the clean mean": _cosine(mean(after), clean),
        "the same, undefended": _cosine(flipped.mean(0), clean),
        "largest norm over the server's": float(after.norms.max() / server.double().norm()),
        "honest clients flagged, nobody attacks": len(_trust(rows, ctx).verdicts[-1].flagged) / CLIENTS,
        "the least trust of a client, root data of one class": _least(_trust(rows, replace(ctx, public=few))),
        "the same, root data of all classes": _least(_trust(rows, ctx)),
    }


def _trained() -> tuple[Lab, Round, Tensor]:
    """A lab, a context with 40 root examples, and the first updates [n, d] of `CLIENTS` clients with 20 examples each."""
    data = Blobs(CLIENTS * 20 + 40, 1).load(make_setup()).train
    plan = ModelPlan(linear, DataShape((FEATURES,), CLASSES))
    settings = LocalSettings("fedavg", 0.5, 0.0, 0.0, 10, 1, None)
    lab = Lab(plan, Layout.of(linear()), settings, Key(0), torch.device("cpu"), torch.float32, "card")
    parts = torch.arange(len(data)).split([20] * CLIENTS + [40])
    start = torch.zeros(lab.layout.size)
    rows = torch.stack([lab.update(start, data.take(part)) for part in parts[:-1]])
    ctx = replace(make_round("card", cohort=range(CLIENTS)), lab=lab, public=data.take(parts[-1]), parameters=start)
    return lab, ctx, rows


def _trust(rows: Tensor, ctx: Round) -> Cohort:
    assert ctx.lab is not None
    return FLTrust(FLTrustConfig()).defence_transform(replace(cohort(rows), layout=ctx.lab.layout), ctx)


def _area(after: Cohort) -> float:
    suspicion = after.verdicts[-1].suspicion
    return auc([suspicion[c] for c in range(HELD)], [suspicion[c] for c in range(HELD, CLIENTS)]) or 0.0


def _least(after: Cohort) -> float:
    return min(-s for s in after.verdicts[-1].suspicion.values())


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def rlr() -> dict[str, float]:
    """One of ten clients pushes by 10 where the others have no opinion; where all agree, nothing changes."""
    generator, half = Key(0, ("card", "rlr")).generator(), 20_000
    rows = torch.randn(10, 2 * half, generator=generator, dtype=torch.float64)
    rows[:, half:] = rows[:, half:].abs()
    rows[0, :half] += 10
    found = RobustLearningRate(RLRConfig(theta=4)).server_aggregate(cohort(rows), make_round()).vector
    clean = rows.mean(0)
    return {
        "share negated where one of ten pushes": float((found[:half] == -clean[:half]).double().mean()),
        "share negated where all agree": float((found[half:] != clean[half:]).double().mean()),
        "mean push": float(found[:half].mean()),
        "the same, undefended": float(clean[:half].mean()),
    }
