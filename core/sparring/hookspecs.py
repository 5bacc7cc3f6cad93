"""The hooks: every one takes ``(payload, ctx)``, is resolved once per run, and is never called per step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from sparring.context import Context, Round, Setup
    from sparring.roles import Task
    from sparring.signals import Cohort, Release, Updates
    from sparring.specs import AnySpec
    from sparring.views import Finding, View

PROJECT = "sparring"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class DistributionHooks:
    """What a distribution's light ``plugin.py`` implements."""

    @hookspec
    def sparring_plugins(self) -> Iterable[AnySpec]:  # type: ignore[empty-body]
        """The specs that the distribution offers.

        Runs: when the distribution is loaded. Laws: light (imports no torch), pure, the same on each call.

        >>> @hookimpl
        ... def sparring_plugins():
        ...     return [NORM_CLIP, GAUSS_NOISE]
        """


class RunHooks:
    """What configured instances implement within a run."""

    @hookspec(firstresult=True)
    def client_update(self, task: Task, ctx: Round) -> Updates:  # type: ignore[empty-body]
        """Local training of a cohort: one row for each client of ``task.clients``.

        Implemented by: `Trainer`, exactly one a run. Runs: once per round and group of clients that share a plan. Laws: row i
        depends on client i alone; the same task and streams give the same rows under any strategy.
        """

    @hookspec(firstresult=True)
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:  # type: ignore[empty-body]
        """From a cohort to one release.

        Implemented by: `Aggregator` and `StreamingAggregator`, exactly one a run (none named: the weighted mean). Runs: once
        per round. Laws: invariant to the order of rows; finite for finite rows.
        """

    @hookspec
    def attack_observe(self, view: View, ctx: Setup) -> Finding | None:
        """What a passive attack concludes from what it was granted to read.

        Implemented by: `PassiveAttack`. Runs: once per run, after training, on the record of its tap. Laws: a pure function of
        the view and its own stream; it never sees the truth and never scores itself.
        """

    @hookspec
    def attack_transform(self, signal: Any, ctx: Context) -> Any:
        """What an active attack makes of the signal of its own clients (of the server, for BROADCAST).

        Implemented by: `ActiveAttack`. Runs: at its site, once per round (MODEL, DATA and LOCAL: once per run). Laws: returns
        the same type, the same clients, the same layout; reads other clients' rows only through ``ctx.benign``.
        """

    @hookspec
    def defence_transform(self, signal: Any, ctx: Context) -> Any:
        """What a defence makes of the signal at its site; folded in the order of the stack.

        Implemented by: `Defence`. Runs: at its site, once per round (MODEL, DATA and LOCAL: once per run; RESPONSE: once per
        query). Laws: pure but for declared state; at UPDATE, row i depends on row i alone.

        >>> @hookimpl
        ... def defence_transform(self, signal, ctx):
        ...     return signal.with_params(signal.params.clamp(-1, 1))
        """
