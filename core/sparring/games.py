"""Games: they alone hold the truth, and score what an attack found beside its null baseline."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparring.errors import NumericalError
from sparring.likeness import agreement, assigned, likeness, recovered, voted
from sparring.scoring import Game, Measure, Score, Truth, Wanted, interval, wilson
from sparring.views import Finding, Reconstruction, Representatives, Scores

LASTING = 0.5
"""Success below which a backdoor is taken for forgotten."""


class ReconstructionGame(Game):
    """PSNR, MSE, SSIM, label accuracy and retrieval over victims, after optimal assignment, beside baselines.

    ``label`` is that of the assigned victim; ``labels`` how many of a capture's labels were recovered, in whatever order.

    The baselines of PSNR are a grey image, the mean training image and, where the attack knows more than the capture, what it
    finds without it; the best of them stands beside the value. Retrieval: how often the victim lies nearer to its
    reconstruction than any decoy; chance is the baseline.

    Of records whose dataset says what their columns are, the share of columns told stands first: categories by their nearest
    code, numbers up to what the dataset calls close (Vero et al. 2023, 2210.01785); the mean record is the baseline.
    """

    def score(self, finding: Finding | None, truth: Truth) -> Score:
        if not isinstance(finding, Reconstruction):
            raise TypeError(f"a reconstruction game scores a Reconstruction, got {type(finding).__name__}")
        values: dict[str, list[float]] = {}
        pairs: list[tuple[Tensor, Tensor]] = []
        frames: list[list[tuple[int, Tensor]]] = []
        for key, found in finding.inputs.items():
            original = truth.examples[key]
            if not bool(torch.isfinite(found).all()):
                whom = "the aggregate" if key[1] is None else f"client {key[1]}"
                raise NumericalError(f"the reconstruction of {whom} in round {key[0]} holds NaN or Inf; lower its step size")
            for i, j in sorted(assigned(found, original.x), key=lambda pair: pair[1]):
                x, reference = found[i].detach().cpu(), original.x[j].cpu()
                pairs.append((reference, x))
                frames.append([(done, kept[i].cpu()) for done, kept in finding.progress.get(key, ())])
                label = float((finding.labels[key][i].cpu() == original.y[j].cpu()).double().mean())
                told = agreement(x, reference, truth.columns)
                for name, value in {**likeness(x, reference, truth.mean, truth.decoys), "label": label, **told}.items():
                    values.setdefault(name, []).append(value)
                for name, value in agreement(truth.mean, reference, truth.columns).items() if truth.mean is not None else ():
                    values.setdefault(f"mean_{name}", []).append(value)
            values.setdefault("labels", []).append(recovered(finding.labels[key], original.y))
            if key in finding.prior:
                prior = finding.prior[key]
                for i, j in sorted(assigned(prior, original.x), key=lambda pair: pair[1]):
                    sights = likeness(prior[i].detach().cpu(), original.x[j].cpu(), None, truth.decoys)
                    for name in ("psnr", "ssim", "retrieval"):
                        if name in sights:
                            values.setdefault("prior" if name == "psnr" else f"{name}_prior", []).append(sights[name])
        average = {name: sum(v) / len(v) for name, v in values.items()}
        images = [average[name] for name in BASELINES if name in average]
        chance = None if truth.decoys is None else 1 / (1 + len(truth.decoys))
        beside = {
            "psnr": max(images, default=None),
            "mse": None,
            "ssim": None,
            "label": None,
            "labels": None,
            "retrieval": chance,
            **{name: average.get(f"mean_{name}") for name in ("columns", "categories", "numbers")},
        }
        measures = {name: Measure(average[name], beside[name], interval(values[name])) for name in beside if name in average}
        measures |= {f"psnr_{BASELINES[name]}": Measure(average[name]) for name in BASELINES if name in average}
        measures |= {f"{name}_only": Measure(average[name]) for name in ("ssim_prior", "retrieval_prior") if name in average}
        each = {name: found for name, found in values.items() if name != "labels"}
        return Score("columns" if truth.columns else "psnr", measures, pairs, truth.mean, frames, each=each)


BASELINES = {"grey": "grey_image", "mean": "mean_image", "prior": "prior_only"}
"""The PSNR of what needs no capture, by the measure's name."""


class ModelInversionGame(Game):
    """How often an independent evaluator knows what was found of a class for that class, and how like the class's mean it is.

    The evaluator is the vote of the 5 nearest private examples: it shares neither weights nor architecture with the model that
    was attacked, so that what only fools that model counts for nothing. Its own accuracy, on examples that no client holds,
    says what its word is worth. One picture for all classes is recognised 1 time in K: that is the baseline, also of
    ``retrieval``, how often the mean of the class is nearer than that of any other. ``psnr`` is to the mean of the class.
    """

    def score(self, finding: Finding | None, truth: Truth) -> Score:
        if not isinstance(finding, Representatives) or truth.private is None or truth.tests is None:
            raise TypeError("a model-inversion game scores Representatives against private examples")
        private, tests = truth.private, truth.tests
        known, flat = private.x.cpu(), private.y.cpu()
        classes = flat.unique().tolist()
        means = {label: known[flat == label].mean(0) for label in classes}
        hits, values, pairs, frames = [], dict[str, list[float]](), [], []
        for label, found in finding.inputs.items():
            if not bool(torch.isfinite(found).all()):
                raise NumericalError(f"what was found of class {label} holds NaN or Inf; lower the attack's step size")
            images = found.detach().cpu()
            hits += (voted(images, known, flat) == label).tolist()
            for i, x in enumerate(images) if label in means else ():
                pairs.append((means[label], x))
                frames.append([(done, kept[i].cpu()) for done, kept in finding.progress.get(label, ())])
                nearest = min(classes, key=lambda other: float(torch.dist(x, means[other])))
                sights = {**likeness(x, means[label], truth.mean), "retrieval": float(nearest == label)}
                for name, value in sights.items():
                    values.setdefault(name, []).append(value)
        average = {name: sum(v) / len(v) for name, v in values.items()}
        chance = 1 / len(classes)
        right = (voted(tests.x.cpu(), known, flat) == tests.y.cpu()).double()
        beside = {"psnr": max((average[n] for n in BASELINES if n in average), default=None), "ssim": None, "retrieval": chance}
        measures = {
            "recognised": Measure(sum(hits) / len(hits), chance, wilson(sum(hits), len(hits))),
            "evaluator_accuracy": Measure(float(right.mean()), truth.majority),
            **{name: Measure(average[name], beside[name], interval(values[name])) for name in beside if name in average},
            **{f"psnr_{BASELINES[name]}": Measure(average[name]) for name in BASELINES if name in average},
        }
        return Score("recognised", measures, pairs, truth.mean, frames, "mean of the class")


class PoisoningGame(Game):
    """Final and best test accuracy under attack; best hides collapse, so both; the baseline is the majority class."""

    def score(self, finding: Finding | None, truth: Truth) -> Score:
        del finding
        final, best = truth.accuracy[-1], max(truth.accuracy)
        return Score(
            "accuracy_under_attack",
            {"accuracy_under_attack": Measure(final, truth.majority), "best_accuracy": Measure(best, truth.majority)},
        )


class MembershipGame(Game):
    """AUC and TPR at fixed FPR of scores over candidates that are members by coin; chance is the baseline."""

    def score(self, finding: Finding | None, truth: Truth) -> Score:
        if not isinstance(finding, Scores) or truth.member is None:
            raise TypeError("a membership game scores Scores over candidates")
        member = truth.member.bool()
        inside, outside = finding.scores[member].double(), finding.scores[~member].double()
        m, n = len(inside), len(outside)
        ranks = torch.searchsorted(outside.sort().values, inside) + torch.searchsorted(
            outside.sort().values, inside, right=True
        )
        auc = float(ranks.double().sum()) / (2 * m * n)
        spread = 1.96 * math.sqrt(max(auc * (1 - auc), 1e-12) / min(m, n))
        measures = {"auc": Measure(auc, 0.5, (max(0.0, auc - spread), min(1.0, auc + spread)))}
        for rate in (0.01, 0.001):
            if rate * n >= 10:
                threshold = outside.sort(descending=True).values[int(rate * n) - 1]
                measures[f"tpr_at_{rate:g}_fpr"] = Measure(float((inside > threshold).double().mean()), rate)
        return Score("auc", measures)


class BackdoorGame(Game):
    """Attack success on inputs that are not of the wanted class already, clean accuracy, and durability.

    Success has as its baseline how often the same test examples without the trigger get the wanted label; where the inputs
    are unchanged or the attack's own, how often other examples, not of the wanted class, get it. Durability: evaluated rounds
    after the window in which success stays at 50 % or more, of ``rounds_after_attack`` that were seen.
    """

    def score(self, finding: Finding | None, truth: Truth) -> Score:
        del finding
        w = _wanted(truth)
        reached = w.objective.reached(w.answers, w.labels).double()
        measures = {
            "attack_success": Measure(float(reached.mean()), _untriggered(w), wilson(int(reached.sum()), len(reached))),
            "clean_accuracy": Measure(truth.accuracy[-1], truth.majority),
        }
        if w.window is not None:
            after = [rate for index, rate in w.success if index > w.window[1]]
            lasting = next((k for k, rate in enumerate(after) if rate < LASTING), len(after))
            measures["durability"] = Measure(lasting, 0)
            measures["rounds_after_attack"] = Measure(len(after))
        return Score("attack_success", measures)


class SubgroupGame(Game):
    """Accuracy on the test examples outside the objective less that on those in it; the majority class's is the baseline."""

    def score(self, finding: Finding | None, truth: Truth) -> Score:
        del finding
        w = _wanted(truth)
        if w.objective.index is None:
            raise TypeError("a subgroup game needs an objective over test examples")
        inside = torch.zeros(len(w.labels), dtype=torch.bool)
        inside[w.objective.index] = True
        right, voted = w.predicted == w.labels, w.labels == w.labels.mode().values
        rates = {name: (_share(which, inside), _share(which, ~inside)) for name, which in (("model", right), ("vote", voted))}
        (own, others), (own_vote, others_vote) = rates["model"], rates["vote"]
        spread = 1.96 * math.sqrt(
            sum(p * (1 - p) / max(int(n), 1) for p, n in ((own, inside.sum()), (others, (~inside).sum())))
        )
        gap = others - own
        return Score(
            "accuracy_gap",
            {
                "accuracy_gap": Measure(gap, others_vote - own_vote, (gap - spread, gap + spread)),
                "group_accuracy": Measure(own, own_vote),
                "others_accuracy": Measure(others, others_vote),
                "clean_accuracy": Measure(truth.accuracy[-1], truth.majority),
            },
        )


def _wanted(truth: Truth) -> Wanted:
    if truth.wanted is None:
        raise TypeError("this game scores an attack that says what it wants")
    return truth.wanted


def _share(which: Tensor, of: Tensor) -> float:
    return float(which[of].double().mean()) if bool(of.any()) else math.nan


def _untriggered(w: Wanted) -> float | None:
    """How often examples get the wanted label without any trigger."""
    counted, index = w.objective.counted(w.labels), w.objective.index
    if index is not None and w.tests is not None and not torch.equal(w.tests[index], w.objective.inputs):
        return float((w.predicted[index] == w.objective.wanted)[counted].double().mean())
    others = torch.ones(len(w.labels), dtype=torch.bool)
    if index is not None:
        others[index] = False
    rates = [
        _share(w.predicted == label, others & (w.labels != label)) for label in w.objective.wanted[counted].unique().tolist()
    ]
    found = [rate for rate in rates if not math.isnan(rate)]
    return sum(found) / len(found) if found else None


GAMES: dict[str, type[Game]] = {
    "reconstruction": ReconstructionGame,
    "model-inversion": ModelInversionGame,
    "membership": MembershipGame,
    "poisoning": PoisoningGame,
    "backdoor": BackdoorGame,
    "subgroup": SubgroupGame,
}
