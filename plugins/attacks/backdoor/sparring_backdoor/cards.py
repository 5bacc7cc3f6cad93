"""What the reference cards of this distribution measure: one function a technique, each returns its quantities."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sparring.keys import Key
from sparring.local import Client, LocalContext, LocalPlan
from sparring.objectives import Objective
from sparring.run import Outcome
from sparring.signals import Examples, Updates
from sparring.testing.fixtures import make_layout, make_round, make_setup
from sparring_backdoor.badnets import patch
from sparring_backdoor.blended import blend
from sparring_backdoor.chameleon import contrast
from sparring_backdoor.configs import (
    BlendedConfig,
    ConstrainAndScaleConfig,
    DBAConfig,
    Patch,
    SinglePixelConfig,
)
from sparring_backdoor.constrain_and_scale import Proximity
from sparring_backdoor.dba import PARTS, bars
from sparring_backdoor.model_replacement import Scaling
from sparring_backdoor.neurotoxin import quiet
from sparring_backdoor.poison import Make
from sparring_backdoor.single_pixel import pixel
from sparring_backdoor.task import Tiles, after, attacked, reached

SEEDS = (0, 1)


def _changed(make: Make, shape: tuple[int, ...] = (1, 8, 8)) -> float:
    """How many numbers of a grey image of ``shape`` a trigger changes."""
    x = torch.full((1, *shape), 0.5)
    return float((make(shape, make_setup(), None)(x) != x).sum())


def _poisoned(name: str, share: float, **options: Any) -> dict[str, float]:
    """Success and clean accuracy of an attack by ``share`` of the clients, means over the seeds, and by none."""
    found = [attacked(name, share, k, entry=options) for k in SEEDS]
    none = attacked(name, 0.0, SEEDS[0], entry=options)
    return {
        "success": fmean(reached(o, name) for o in found),
        "success without the attack": reached(none, name),
        "clean accuracy": _accuracy(found),
        "clean accuracy without the attack": _accuracy([none]),
    }


def _accuracy(found: list[Outcome]) -> float:
    return fmean(o.accuracy or 0.0 for o in found)


def badnets() -> dict[str, float]:
    """What the patch changes, and what it comes to where a tenth of all examples has it."""
    return {"pixels changed by a patch of 3": _changed(patch(Patch())), **_poisoned("badnets", 1.0, fraction=0.1)}


def single_pixel() -> dict[str, float]:
    """What the pixel changes, and what it comes to where a fifth of all examples has it."""
    return {"pixels changed": _changed(pixel(SinglePixelConfig())), **_poisoned("single-pixel", 1.0, fraction=0.2)}


def blended() -> dict[str, float]:
    """How bright the pattern makes a black image, and what it comes to where a fifth of all examples has it."""
    shape = (1, 100, 100)
    black = blend(BlendedConfig())(shape, make_setup(), None)(torch.zeros(1, *shape))
    return {"mean of a black image with the pattern": float(black.mean()), **_poisoned("blended", 1.0, fraction=0.2)}


def dba() -> dict[str, float]:
    """The global trigger's success beside the largest of a local trigger's, by four of ten clients."""
    config = DBAConfig()

    def locally(test: Examples) -> Mapping[str, Objective]:
        index = (test.y != config.target).nonzero()[:, 0]
        wanted = torch.full_like(index, config.target)
        parts = (bars(config)(tuple(test.x.shape[1:]), make_setup(), k) for k in range(PARTS))
        return {f"part {k}": Objective(part(test.x[index]), wanted, index) for k, part in enumerate(parts)}

    runs = [attacked("dba", 0.4, k, entry={"fraction": 0.5}, probes=locally) for k in SEEDS]
    local = [max(reached(o, f"part {k}") for k in range(PARTS)) for o in runs]
    return {
        "pixels changed by the global trigger": _changed(bars(config)),
        "success of the global trigger": fmean(reached(o, "dba") for o in runs),
        "least lead of the global trigger over every local one": min(
            reached(o, "dba") - own for o, own in zip(runs, local, strict=True)
        ),
        "success without the attack": reached(attacked("dba", 0.0, SEEDS[0]), "dba"),
        "clean accuracy": _accuracy(runs),
    }


def semantic() -> dict[str, float]:
    """What a backdoor on unchanged images with a bar in the top edge comes to, by six of ten clients."""
    return _poisoned("semantic", 0.6, feature={"column": "odd"})


def edge_case() -> dict[str, float]:
    """What a backdoor on the tail of a class comes to, by six of ten clients."""
    return _poisoned("edge-case", 0.6, fraction=0.5)


def subgroup_degradation() -> dict[str, float]:
    """The accuracy that a group loses, and that the others do not, where eight of ten clients flip its labels of one class."""
    entry = {"group": {"column": "site"}, "source": 1, "target": 0}
    runs = [attacked("subgroup-degradation", 0.8, k, entry=entry) for k in SEEDS]
    none = attacked("subgroup-degradation", 0.0, SEEDS[0], entry=entry)
    return {
        "gap in accuracy": fmean(_measure(o, "accuracy_gap") for o in runs),
        "gap without the attack": _measure(none, "accuracy_gap"),
        "accuracy of the others": fmean(_measure(o, "others_accuracy") for o in runs),
    }


def _measure(found: Outcome, name: str) -> float:
    return found.scores["subgroup-degradation"].measures[name].value


SINGLE: Mapping[str, Any] = {"rounds": 9, "local_epochs": 4, "evaluate_every": 9, "optimiser": {"lr": 0.3}}
"""Nine rounds, in the last of which the attack acts."""


def _shot(name: str, seed: int, **options: Any) -> Outcome:
    entry = {"fraction": 0.5, "window": [8, 8], **options}
    return attacked(name, 0.1, seed, "update", entry=entry, federation=SINGLE)


def _scaled(rows: Tensor, scaling: Scaling, cohort: int) -> Tensor:
    signal = Updates(rows, make_layout(rows.shape[1]), tuple(range(len(rows))), torch.ones(len(rows), dtype=rows.dtype))
    return scaling.attack_transform(signal, make_round(cohort=range(cohort))).rows


def model_replacement() -> dict[str, float]:
    """The factor, and what one round of one of ten clients comes to with it and with the factor 1."""
    rows = torch.randn(2, 100, generator=Key(0, ("card", "model-replacement")).generator(), dtype=torch.float64)
    replaced = [_shot("model-replacement", k) for k in SEEDS]
    plain = [_shot("model-replacement", SEEDS[0], scale=1.0)]
    return {
        "factor of 2 among 10, eta = 0.5": float((_scaled(rows, Scaling(None, 0.5), 10) / rows).mean()),
        "success after one round": fmean(reached(o, "model-replacement") for o in replaced),
        "success after one round with the factor 1": fmean(reached(o, "model-replacement") for o in plain),
        "clean accuracy": _accuracy(replaced),
        "clean accuracy with the factor 1": _accuracy(plain),
    }


def constrain_and_scale() -> dict[str, float]:
    """One proximal step, the norm bound, and what one round of one of ten clients comes to with and without scaling."""
    plan = Proximity(ConstrainAndScaleConfig(alpha=0.5)).attack_transform(LocalPlan(), make_setup("card"))
    ((_, step),) = plan.step
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    at = LocalContext(Client(0, 1, 1, 1), 0, 0, torch.Generator(), zero, zero, 0.25)
    rows = torch.eye(2, 100, dtype=torch.float64) * torch.tensor([[1.0], [7.0]], dtype=torch.float64)
    norms = _scaled(rows, Scaling(None, 1.0, 3.0), 4).norm(dim=1)
    free = [_shot("constrain-and-scale", k, alpha=0.9) for k in SEEDS]
    plain = [_shot("constrain-and-scale", SEEDS[0], alpha=0.9, scale=1.0)]
    return {
        "a parameter 1 off the start after a step, alpha = 0.5, eta = 0.25": float(step(one, at)),
        "norm of an update of 1, n / m = 2, S = 3": float(norms[0]),
        "norm of an update of 7, n / m = 2, S = 3": float(norms[1]),
        "success after one round": fmean(reached(o, "constrain-and-scale") for o in free),
        "success after one round without scaling": fmean(reached(o, "constrain-and-scale") for o in plain),
        "clean accuracy": _accuracy(free),
        "clean accuracy without scaling": _accuracy(plain),
    }


def neurotoxin() -> dict[str, float]:
    """What the mask chooses, and what is left of a backdoor of one round in the seven rounds after it."""
    moved = torch.tensor([5.0, -1.0, 0.5, -4.0, 2.0])
    single = {"rounds": 16, "local_epochs": 3, "evaluate_every": 1, "optimiser": {"lr": 0.3}}
    lasting = {}
    for name, options in (("badnets", {}), ("neurotoxin", {"ratio": 0.4})):
        entry = {"fraction": 0.5, "window": [8, 8], **options}
        runs = [
            attacked(name, 0.5, k, "training", entry=entry, federation=single, dataset=Tiles(train=400, noise=0.8))
            for k in SEEDS
        ]
        lasting[name] = fmean(after(o, name, 8) for o in runs), _accuracy(runs)
    return {
        "coordinates kept of 5 with ratio 0.6": float(quiet(moved, torch.zeros(5), 0.6).sum()),
        "largest move among them": float(moved[quiet(moved, torch.zeros(5), 0.6)].abs().max()),
        "mean success after the attack": lasting["neurotoxin"][0],
        "mean success after a plain backdoor": lasting["badnets"][0],
        "gain over a plain backdoor": lasting["neurotoxin"][0] - lasting["badnets"][0],
        "clean accuracy": lasting["neurotoxin"][1],
        "clean accuracy with a plain backdoor": lasting["badnets"][1],
    }


def chameleon() -> dict[str, float]:
    """The contrastive loss of two pairs, and what is left of a backdoor of eight rounds in the rounds after it."""
    z = torch.eye(2, dtype=torch.float64).repeat_interleave(2, dim=0)
    y = torch.tensor([0, 0, 1, 1])
    window = {"rounds": 26, "evaluate_every": 1, "optimiser": {"lr": 0.3}}
    entry = {"fraction": 0.5, "window": [8, 15]}
    lasting = {}
    for name in ("badnets", "chameleon"):
        runs = [attacked(name, 0.3, k, "training", entry=entry, federation=window) for k in SEEDS]
        lasting[name] = fmean(after(o, name, 15) for o in runs), _accuracy(runs)
    return {
        "loss of two orthogonal pairs, tau = 1": float(contrast(z, y, torch.ones(4, dtype=torch.bool), 1.0).mean()),
        "mean success after the attack": lasting["chameleon"][0],
        "mean success after a plain backdoor": lasting["badnets"][0],
        "gain over a plain backdoor": lasting["chameleon"][0] - lasting["badnets"][0],
        "clean accuracy": lasting["chameleon"][1],
        "clean accuracy with a plain backdoor": lasting["badnets"][1],
    }
