"""The threat model as facts at the start, each with its source."""

from __future__ import annotations

from collections.abc import Sequence

from sparring.checker import Waiver
from sparring.errors import ConfigError
from sparring.facts import Controls, Fact, Hardware, Knows, PoissonSampled, Readable
from sparring.schema import File, Rate
from sparring.signature import Signature, Step
from sparring.sites import Site


def start_facts(file: File, dataset: Signature, model: Signature) -> dict[Fact, str]:
    """Every fact at the start with its source."""
    threat = file.threat_model
    granted: list[Fact] = [
        Readable("aggregator", "update", "client"),
        Readable("aggregator", "update", "cohort"),
        Readable("client", "model", "round"),
        Readable("outsider", "model", "run"),
        Readable("outsider", "response", "example"),
    ]
    if threat.server != "trusted":
        granted += [Readable("server", "update", "client"), Readable("server", "update", "cohort")]
        granted += [Readable("server", "model", "round"), Readable("server", "trace", "round")]
    if threat.raw_data:
        granted += [Readable("server", "data", "example"), Readable("server", "labels", "example")]
    if threat.server == "malicious":
        granted.append(Controls("server", "broadcast"))
    if threat.compromised is not None:
        powers = {"data": ["data"], "training": ["data", "training"], "update": ["data", "training", "update"]}
        granted += [Controls("client", what) for what in powers[threat.compromised.control]]  # type: ignore[arg-type]
    granted += [Knows(what) for what in threat.knows]
    granted += [Hardware(kind) for kind in threat.hardware]
    sources: dict[Fact, str] = dict.fromkeys(granted, "threat model")
    sources.update(dict.fromkeys(dataset.gives, "dataset"))
    sources.update(dict.fromkeys(model.gives, "model"))
    if isinstance(file.federation.cohort, Rate):
        sources[PoissonSampled("client", file.federation.cohort.rate)] = "federation"
    return sources


def skips(control: str | None, site: Site, wire: bool) -> bool:
    """Whether a client that the adversary controls this far does not run a defence at ``site``."""
    if control is None or wire or not site.client_side:
        return False
    return site is Site.DATA or (control in ("training", "update") and site.local) or control == "update"


def waivers(file: File, steps: Sequence[Step]) -> list[Waiver]:
    """The needs that the file takes on trust; raises `ConfigError` for one that no layer has."""
    needs = {str(need): need for step in steps for clause in step.signature.clauses for need in clause}
    found = []
    for waiver in file.waive:
        if waiver.need not in needs:
            raise ConfigError(f"waive: no layer needs {waiver.need!r}; needs here: {', '.join(sorted(needs)) or 'none'}")
        found.append(Waiver(needs[waiver.need], waiver.reason))
    return found
