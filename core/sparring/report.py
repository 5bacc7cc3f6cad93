"""What a run leaves behind: the table, the pictures, and everything that the tracking store keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparring.files import slug, write_bytes
from sparring.likeness import psnr
from sparring.pictures import PictureRow, contact_sheet
from sparring.resolve import Resolved
from sparring.run import Outcome, as_json
from sparring.scoring import Score

if TYPE_CHECKING:
    from sparring.tracking import Run

COLUMNS = ("cell", "test accuracy", "attack", "result", "epsilon", "claim", "seconds", "MB sent")
SHOWN_AT_MOST = 8


def rows(outcomes: Sequence[Outcome]) -> list[tuple[str, ...]]:
    """The table, a row for each cell and attack."""
    found: list[tuple[str, ...]] = []
    for outcome in outcomes:
        if outcome.error:
            found.append((outcome.name, "failed", "", outcome.error.splitlines()[0], "", "", "", ""))
            continue
        head = (outcome.name, f"{outcome.accuracy:.1%}" if outcome.accuracy is not None else "")
        tail = (_epsilon(outcome), _claim(outcome), f"{outcome.seconds:.1f}", f"{(outcome.up + outcome.down) / 1e6:.1f}")
        attacks = list(outcome.sights) or [""]
        for k, label in enumerate(attacks):
            middle = (label, _result(outcome, label) if label else "")
            found.append((*head, *middle, *tail) if k == 0 else ("", "", *middle, "", "", "", ""))
    return found


def _result(outcome: Outcome, label: str) -> str:
    score = outcome.scores.get(label)
    if score is None:
        return outcome.sights[label]
    main = score.measures[score.headline]
    if score.headline == "psnr":
        ssim = f", SSIM {score.measures['ssim'].value:.2f}" if "ssim" in score.measures else ""
        return f"PSNR {main.value:.1f} dB{ssim} (mean image {main.baseline or 0:.1f} dB)"
    if score.headline == "accuracy_under_attack":
        return f"accuracy {main.value:.1%} (majority class {main.baseline or 0:.1%})"
    if score.headline in ("attack_success", "accuracy_gap"):
        clean = score.measures["clean_accuracy"].value
        shown = {"attack_success": "success", "accuracy_gap": "accuracy gap"}[score.headline]
        return f"{shown} {main.value:.1%} (without {main.baseline or 0:.1%}), clean accuracy {clean:.1%}"
    if score.headline == "columns":
        return f"columns told {main.value:.1%} (mean record {main.baseline or 0:.1%})"
    spread = f" [{main.interval[0]:.3f}, {main.interval[1]:.3f}]" if main.interval else ""
    return f"{score.headline} {main.value:.3f}{spread} (chance {main.baseline})"


def _epsilon(outcome: Outcome) -> str:
    """Epsilon over the honest clients, from the least to the largest: the largest is what the run may claim for all."""
    found = []
    for unit, own in outcome.epsilon_per_client.items():
        least, most = min(own.values()), max(own.values())
        spread = f"{least:.3g} to {most:.3g}" if most - least > 0.005 * most else f"{most:.3g}"
        found.append(f"{spread} per {unit} at {outcome.delta:g}, {outcome.accountant}")
    return "; ".join(found)


def _claim(outcome: Outcome) -> str:
    kinds = [
        k for k in ("formal", "heuristic") if any(f": {k}:" in line and "withdrawn" not in line for line in outcome.claims)
    ]
    return ", ".join(kinds + (["empirical"] if outcome.scores else [])) or "none"


def markdown(outcomes: Sequence[Outcome]) -> str:
    """The table as Markdown, with every cell's claims and notes below it."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows(outcomes)]
    for outcome in outcomes:
        lines += ["", f"**{outcome.name}**", *(f"- {line}" for line in (*outcome.claims, *outcome.notes))]
        if outcome.error:
            lines.append(f"- error: {outcome.error}")
    return "\n".join(lines) + "\n"


def log_cell(resolved: Resolved, outcome: Outcome, run: Run) -> None:
    """Everything of one cell into its run."""
    run.text("check.txt", resolved.explain())
    run.json("outcome.json", as_json(outcome))
    run.json("stack.json", stack(resolved))
    values: dict[str, float] = {"seconds": outcome.seconds, "bytes_up": outcome.up, "bytes_down": outcome.down}
    if outcome.accuracy is not None:
        values["final_accuracy"] = outcome.accuracy
    values.update({f"epsilon_{unit}": value for unit, value in outcome.epsilon.items()})
    for label, score in outcome.scores.items():
        for name, measure in score.measures.items():
            values[f"{label}/{name}"] = measure.value
            if measure.baseline is not None:
                values[f"{label}/{name}_baseline"] = measure.baseline
    for layer, found in outcome.detection.items():
        values.update({f"detection/{layer}/{name}": value for name, value in found.items()})
    for name, cost in outcome.costs.items():
        values[f"cost/{name}/seconds"] = cost.seconds
    run.metrics(outcome.history[-1][0] if outcome.history else 0, values)


def stack(resolved: Resolved) -> dict[str, Any]:
    """The resolved composition: who, in which version, with which options and facts."""
    parts = {
        "dataset": [resolved.dataset],
        "model": [resolved.model],
        "attacks": resolved.attacks,
        "defences": resolved.defences,
        "aggregator": [resolved.aggregator] if resolved.aggregator else [],
        "trainer": [resolved.trainer] if resolved.trainer else [],
    }
    steps = [
        {
            "name": s.name,
            "site": s.site.label,
            "gives": list(map(str, s.signature.gives)),
            "needs": list(map(str, s.signature.needs)),
        }
        for s in resolved.report.steps
    ]
    named = {kind: [chosen.identity for chosen in found] for kind, found in parts.items()}
    start = {str(fact): source for fact, source in resolved.sources.items()}
    return {**named, "steps": steps, "start": start, "identity": resolved.identity, "torch": torch.__version__}


def publish(outcomes: Sequence[Outcome], folder: Path, run: Run) -> tuple[Path, ...]:
    """The whole table and the pictures, beside the run and in its tracking store."""
    text = markdown(outcomes)
    write_bytes(folder / "table.md", text.encode())
    run.text("table.md", text)
    run.json("table.json", [dict(zip(COLUMNS, row, strict=True)) for row in rows(outcomes)])
    pictures = []
    labels = {label for outcome in outcomes for label, score in outcome.scores.items() if score.pairs}
    for label in sorted(labels):
        path = folder / "pictures" / f"{label}.png"
        sheet = [*_sheet(label, outcomes)]
        if sheet:
            pictures.append(contact_sheet(sheet, path))
        for outcome in outcomes:
            film = _film(outcome.scores.get(label))
            if film:
                pictures.append(contact_sheet(film, path.with_name(f"{label}, progress, {slug(outcome.name)}.png")))
    for path in pictures:
        run.file(path, "pictures")
    return tuple(pictures)


def _sheet(label: str, outcomes: Sequence[Outcome]) -> list[PictureRow]:
    """Originals, then one row a stack, then the baselines: what can be seen without the update."""
    scored = [o for o in outcomes if label in o.scores and o.scores[label].pairs]
    originals = [original for original, _ in scored[0].scores[label].pairs][:SHOWN_AT_MOST]
    if not originals or originals[0].dim() != 3:
        return []
    sheet = [PictureRow(scored[0].scores[label].original, originals, [""] * len(originals))]
    for outcome in outcomes:
        if label not in outcome.sights:
            continue
        score = outcome.scores.get(label)
        if score is None:
            sheet.append(PictureRow(outcome.name, absent=outcome.sights[label].split(":")[0]))
        else:
            sheet.append(_reconstructions(outcome.name, score, originals))
    grey = [torch.full_like(x, 0.5) for x in originals]
    sheet.append(PictureRow("grey image", grey, _captions(grey, originals)))
    mean = scored[0].scores[label].mean
    if mean is not None:
        sheet.append(PictureRow("mean image", [mean] * len(originals), _captions([mean] * len(originals), originals)))
    return sheet


def _film(score: Score | None) -> list[PictureRow]:
    """A row for each moment that an attack kept, under the originals: how a reconstruction comes about."""
    if score is None:
        return []
    shown = [(own, frames) for (own, _), frames in zip(score.pairs, score.frames, strict=False) if frames and own.dim() == 3]
    shown = shown[:SHOWN_AT_MOST]
    moments = [done for done, _ in shown[0][1]] if shown else []
    originals = [own for own, _ in shown]
    sheet = [PictureRow(score.original, originals, [""] * len(originals))] if moments else []
    for done in moments:
        images = [dict(frames).get(done) for _, frames in shown]
        captions = ["" if x is None else f"{psnr(x, own):.1f} dB" for x, own in zip(images, originals, strict=True)]
        sheet.append(PictureRow(f"after {done} iterations", images, captions, absent="ended"))
    return sheet


def _reconstructions(name: str, score: Score, originals: Sequence[Tensor]) -> PictureRow:
    found = [x for _, x in score.pairs][: len(originals)]
    own = [original for original, _ in score.pairs][: len(originals)]
    return PictureRow(name, found, _captions(found, own))


def _captions(images: Sequence[Tensor], originals: Sequence[Tensor]) -> list[str]:
    return [f"{psnr(x, original):.1f} dB" for x, original in zip(images, originals, strict=True)]
