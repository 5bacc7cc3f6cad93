"""The contract as data: what plugins import, with fields and arguments; and what of an older one a core has lost.

``python -m tests.api.contract FOLDER`` freezes a new distribution, once: it writes `contract.json` and `MANIFEST.json`.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib
import inspect
import json
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

Parameters = Sequence[Sequence[Any]]
"""Name, whether it may be given by position, whether it may be left out: of each field or argument, in order."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "sparring.aggregate": ("fold",),
    "sparring.claims": ("Empirical", "Formal", "GaussianEvent", "Heuristic", "LaplaceEvent", "Neighbours"),
    "sparring.cohort": ("Cohort",),
    "sparring.context": ("Round", "Setup", "Wire"),
    "sparring.errors": (
        *("BudgetSpent", "CheckpointError", "CompositionError", "ConfigError", "DataError", "EffectError", "NumericalError"),
        *("PluginError", "RoundAborted", "SparringError"),
    ),
    "sparring.facts": (
        *("Clipped", "Control", "Controls", "Exposure", "Fact", "Grain", "Guarantee", "Hardware", "Identified", "Knowledge"),
        *("Knows", "PerExample", "PoissonSampled", "Principal", "PublicData", "Readable", "Sensitivity", "Setting", "Space"),
        *("Summable", "Unit", "Weighted", "What"),
    ),
    "sparring.hookspecs": ("DistributionHooks", "RunHooks"),
    "sparring.keys": ("Key",),
    "sparring.layout": ("Layout", "Role", "Segment", "Space"),
    "sparring.local": (
        *("Batch", "Client", "Exchange", "GradientRule", "LocalContext", "LocalPlan", "MeanGradient", "Sampler", "Shuffled"),
        "cross_entropy",
    ),
    "sparring.registry": ("require",),
    "sparring.roles": (
        *("Accountant", "ActiveAttack", "Aggregator", "Data", "Dataset", "Defence", "Engine", "Host", "Model"),
        *("PassiveAttack", "Stateful", "StreamingAggregator", "Task", "Trainer"),
    ),
    "sparring.signals": (
        *("Broadcast", "ClientData", "DataShape", "Examples", "ModelPlan", "Release", "Responses", "State", "Task", "Updates"),
    ),
    "sparring.signature": ("Map", "Signature"),
    "sparring.sites": ("Site",),
    "sparring.specs": (
        *("AccountantSpec", "Acts", "AggregatorSpec", "AttackSpec", "Config", "DatasetSpec", "DefenceSpec", "Empty"),
        *("EngineSpec", "Game", "HostSpec", "Layer", "ModelSpec", "Reader", "Spec", "TrainerSpec"),
    ),
    "sparring.strategies": ("Strategy", "Work"),
    "sparring.taps": ("Tap", "ViewName"),
    "sparring.testing": ("cases", "conformance"),
    "sparring.testing.experiments": ("Blobs", "linear", "outcome"),
    "sparring.testing.fixtures": (
        *("make_layout", "make_round", "make_setup", "make_updates", "tiny_data", "tiny_layout", "tiny_plan", "tiny_victim"),
    ),
    "sparring.train": ("Sequential",),
    "sparring.views": (
        *("ActivationView", "AggregateView", "Capture", "Finding", "LocalSettings", "LogitsView", "Message", "ModelView"),
        *("QueryView", "Reconstruction", "Scores", "TraceView", "UpdateView", "View"),
    ),
}
METHODS = (types.FunctionType, classmethod, staticmethod)
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def contract() -> dict[str, Any]:
    """Every name that this core offers to plugins."""
    found = {}
    for module, names in NAMES.items():
        held = {name: getattr(importlib.import_module(module), name, None) for name in names}
        found.update({f"{module}.{name}": described(thing) for name, thing in held.items() if thing is not None})
    return found


def described(thing: Any) -> dict[str, Any]:
    """What plugins may rely on of a class, a function or a set of values."""
    if get_origin(thing) is Literal:
        return {"values": sorted(get_args(thing))}
    if not isinstance(thing, type):
        return {"arguments": _arguments(thing)}
    if issubclass(thing, enum.Enum):
        return {"values": [member.name for member in sorted(thing, key=lambda member: member.value)]}
    bases = [base.__name__ for base in thing.__mro__[1:] if base.__module__.startswith("sparring.")]
    fields = (
        [[f.name, not f.kw_only, _optional(f)] for f in dataclasses.fields(thing)] if dataclasses.is_dataclass(thing) else None
    )
    public = {name: value for name, value in inspect.getmembers_static(thing) if not name.startswith("_") and _own(thing, name)}
    functions = {name: value for name, value in public.items() if isinstance(value, METHODS)}
    methods = {name: _arguments(inspect.unwrap(getattr(thing, name))) for name in functions}
    attributes = [name for name in public if name not in methods and name not in {f[0] for f in fields or ()}]
    abstract = sorted(getattr(thing, "__abstractmethods__", ()))
    return {"bases": bases, "fields": fields, "attributes": attributes, "methods": methods, "abstract": abstract}


def _own(thing: type, name: str) -> bool:
    return any(name in vars(base) for base in thing.__mro__ if base.__module__.startswith("sparring."))


def _optional(field: Any) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _arguments(function: Any) -> Parameters:
    parameters = inspect.signature(function).parameters.values()
    return [
        [p.name, p.kind in POSITIONAL, p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        for p in parameters
    ]


def lost(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What a plugin of the older contract relies on and does not find in the newer one, a line each."""
    for name, old in before.items():
        if name not in now:
            yield f"{name} is gone"
            continue
        new = now[name]
        if "values" in old:
            order = [value for value in new.get("values", ()) if value in old["values"]]
            yield from (f"{name}: {value!r} is gone" for value in old["values"] if value not in order)
            if sorted(order) == sorted(old["values"]) and order != old["values"]:
                yield f"{name}: {old['values']} became {order}"
        elif "arguments" in old:
            yield from _called(name, old["arguments"], new.get("arguments", ()))
        else:
            yield from _of_class(name, old, new)


def _of_class(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Methods of roles and hooks are plugins' own, and called by core: no argument may join them."""
    yield from (f"{name} is no {base} any more" for base in old["bases"] if base not in new.get("bases", ()))
    if old["fields"] is not None:
        yield from _called(name, old["fields"], new.get("fields") or ())
    members = {*new.get("attributes", ()), *new.get("methods", {}), *(f[0] for f in new.get("fields") or ())}
    yield from (f"{name}.{attribute} is gone" for attribute in old["attributes"] if attribute not in members)
    yield from (f"{name}.{m} must be implemented now" for m in new.get("abstract", ()) if m not in old["abstract"])
    for method, arguments in old["methods"].items():
        if method not in new.get("methods", {}):
            yield f"{name}.{method} is gone"
        elif old["abstract"] or name.endswith("Hooks"):
            was, given = ([argument[0] for argument in part["methods"][method]] for part in (old, new))
            if was != given:
                yield f"{name}.{method} is called with {', '.join(given)}; plugins take {', '.join(was)}"
        else:
            yield from _called(f"{name}.{method}", arguments, new["methods"][method])


def _called(name: str, old: Parameters, new: Parameters) -> Iterator[str]:
    """What breaks for those who give ``old``: names and places stay, and what is added may be left out."""
    held = {parameter[0]: parameter for parameter in new}
    yield from (f"{name}: {p[0]} is gone" for p in old if p[0] not in held)
    yield from (f"{name}: {p[0]} has no default any more" for p in old if p[2] and p[0] in held and not held[p[0]][2])
    yield from (f"{name}: {p[0]} is new and has no default" for p in new if not p[2] and p[0] not in {o[0] for o in old})
    places = [p[0] for p in old if p[1]], [p[0] for p in new if p[1]]
    if places[0] != places[1][: len(places[0])]:
        yield f"{name}: by position it took {', '.join(places[0])}; now {', '.join(places[1])}"


def printed() -> str:
    """The contract as JSON, a name a line."""
    lines = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(contract().items())]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def hashes(folder: Path) -> dict[str, str]:
    """The sha256 of each file of a frozen distribution, but for the manifest that holds them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    kept = [path for path in files if path != folder / "MANIFEST.json"]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def freeze(folder: Path) -> None:
    """Write down the contract of today's core and the hashes of a new distribution; what is frozen is never overwritten."""
    if (folder / "MANIFEST.json").exists():
        raise SystemExit(f"{folder} is frozen already; write a new copy for a new API number")
    (folder / "contract.json").write_text(printed())
    (folder / "MANIFEST.json").write_text(json.dumps(hashes(folder), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    freeze(Path(sys.argv[1]))
