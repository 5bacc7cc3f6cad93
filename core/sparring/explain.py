"""Explanations: the stack with the facts that it gains and loses, and hints that can be pasted."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sparring.checker import Disorder, Missing, Report, walk
from sparring.facts import Controls, Exposure, Fact, Hardware, Knows, PublicData, Readable
from sparring.signature import Clause, Step

DEAD_ENDS_AT_MOST = 1000
WIDTH = 132


@dataclass(frozen=True)
class Known:
    """A layer that could be added: what it gives, and the distribution to install if it is not there."""

    name: str
    gives: tuple[Fact, ...]
    install: str | None = None


def explain(report: Report, sources: Mapping[Fact, str], known: Sequence[Known] = ()) -> str:
    """The whole verdict as text: one line of result, the stack with + and -, every fault with its hints."""
    faults: list[Missing | Disorder] = [*report.disorders, *(m for m in report.missing if not m.waiver)]
    lines = [_headline(report, faults), "", *_table(report, sources)]
    order = ordered(report) if faults else None
    for fault in faults:
        lines += ["", _sentence(report, fault), *(f"  hint: {hint}" for hint in _hints(report, fault, order, known))]
    for m in report.missing:
        if m.waiver:
            lines += ["", f"waived: '{report.steps[m.step].name}' needs {_any(m.clause)} ({m.waiver.reason})"]
    return "\n".join(lines)


def _headline(report: Report, faults: Sequence[Missing | Disorder]) -> str:
    stack = " >> ".join(step.name for step in report.steps) or "the empty stack"
    if not faults:
        return f"type-checks: {stack}"
    return f"does not type-check ({len(faults)} fault{'s' if len(faults) > 1 else ''}): {stack}"


def _any(clause: Clause) -> str:
    return " or ".join(map(str, clause))


def _table(report: Report, sources: Mapping[Fact, str]) -> Iterable[str]:
    by_source: dict[str, list[str]] = {}
    for fact in report.start:
        by_source.setdefault(sources.get(fact, "start"), []).append(str(fact))
    for source, facts in by_source.items():
        head = f"      {'start':16} {source:18} "
        yield _filled(head, sorted(facts))
    wrong = {m.step for m in report.missing if not m.waiver} | {d.step for d in report.disorders}
    width = max((len(step.name) for step in report.steps), default=0)
    for i, step in enumerate(report.steps):
        before, after = report.trail[i], report.trail[i + 1]
        notes = [f"+{after[key].fact}" for key in after if after[key].giver == i]
        notes += [f"-{before[key].fact}" for key in before if key not in after]
        notes += [f"needs {_any(m.clause)}" for m in report.missing if m.step == i]
        mark = "-->" if i in wrong else "   "
        head = f"{mark}{i:2} {step.site.label:16} {step.name:{max(width, 18)}} "
        yield _filled(head, notes)


def _filled(head: str, notes: Iterable[str]) -> str:
    """``notes`` behind ``head``, broken between them and never within one."""
    text = ", ".join(note.replace(" ", "\0") for note in notes)
    lines = textwrap.wrap(text, WIDTH - len(head), break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * len(head)).join([head + (lines or [""])[0], *lines[1:]]).replace("\0", " ").rstrip()


def _sentence(report: Report, fault: Missing | Disorder) -> str:
    name = report.steps[fault.step].name
    if isinstance(fault, Disorder):
        return f"'{name}' {fault.rule}."
    return f"'{name}' needs {_any(fault.clause)}, which does not hold where it stands."


def _hints(report: Report, fault: Missing | Disorder, order: Sequence[Step] | None, known: Sequence[Known]) -> Iterable[str]:
    if isinstance(fault, Missing):
        for fact, i in fault.lost:
            how = "hides it" if isinstance(fact, Exposure) else "does not keep it"
            yield f"{fact} is lost at {i}: '{report.steps[i].name}' {how}."
        if order is None:
            yield from _assumptions(fault)
            yield from _givers(report, fault, known)
    if order is not None:
        yield "this order type-checks: " + " >> ".join(step.name for step in order)


def _assumptions(fault: Missing) -> Iterable[str]:
    for need in fault.clause:
        if isinstance(need, Knows):
            yield f"grant it in the threat model (it will be logged): knows: [{need.what}]"
        elif isinstance(need, Controls):
            who = "compromised: {control: ...}" if need.by == "client" else "server: malicious"
            yield f"grant it in the threat model: {who}"
        elif isinstance(need, PublicData):
            yield "choose a dataset that offers public data"
        elif isinstance(need, Hardware):
            yield f"declare the hardware in the threat model: hardware: [{need.kind}]"
        elif isinstance(need, Readable) and fault.lost:
            yield f"no later layer can restore {need}; drop the layer that hides it, or the one that needs it"
        elif isinstance(need, Readable) and need.by == "server" and need.what in ("data", "labels"):
            yield "clients' raw data are shown to nobody; grant it in the threat model: raw_data: true, or drop the layer"
        elif isinstance(need, Readable):
            yield f"{need} is an assumption of the threat model, which does not make it; grant it there, or drop the layer"


def _givers(report: Report, fault: Missing, known: Sequence[Known]) -> Iterable[str]:
    present = {re.split("[/#]", step.name)[0] for step in report.steps}
    for layer in known:
        what = next((given for given in layer.gives for need in fault.clause if given.meet(need)), None)
        if what is None or layer.name in present:
            continue
        if layer.install:
            yield f"'{layer.name}' gives {what}; it is not installed: pip install {layer.install}"
        else:
            yield f"'{layer.name}' gives {what}: add it before '{report.steps[fault.step].name}'"


def ordered(report: Report) -> tuple[Step, ...] | None:
    """An order that type-checks, permuting only within a site, or None; the nearest to the given order comes first."""
    waivers = [m.waiver for m in report.missing if m.waiver]
    ranked = sorted(report.steps, key=lambda step: step.enters)
    dead: set[object] = set()

    def extend(done: tuple[Step, ...], left: tuple[Step, ...]) -> tuple[Step, ...] | None:
        reached = walk(done, report.start, waivers)
        state = (tuple(map(id, left)), frozenset(reached.trail[-1]))
        if not reached.ok or state in dead or len(dead) > DEAD_ENDS_AT_MOST:
            return None
        if not left:
            return done
        for k in range(sum(step.enters == left[0].enters for step in left)):
            found = extend((*done, left[k]), (*left[:k], *left[k + 1 :]))
            if found:
                return found
        dead.add(state)
        return None

    return None if report.ok else extend((), tuple(ranked))


__all__ = ["Known", "explain", "ordered"]
