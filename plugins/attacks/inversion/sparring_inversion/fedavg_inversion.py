"""FedAvg inversion: the update of several local steps, matched by simulating them."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import isfinite
from typing import final

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, LocalSettings, Reconstruction, UpdateView
from sparring_inversion.boxed import Recipe, descend
from sparring_inversion.inverting_gradients import recipe
from sparring_inversion.matching import Stack, stacks
from sparring_inversion.plugin_steps import FedavgInversionConfig
from sparring_inversion.unroll import behind, gradients, unrolled

View = UpdateView | AggregateView


@final
class FedavgInversion(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update of several local steps.

    $\arg\min_{x' \in [0,1]^n} 1 - \cos(\Delta(x'), \Delta) + \alpha TV(x')$, where $\Delta(x') = \theta_T(x') - \theta_0$ is
    what a client that holds x' would send: its training is simulated (`unroll.unrolled`), with a graph to x'. All else, with
    ``iterations``, ``restarts``, ``tv``, ``lr``, ``momentum``, ``init``, captures of norm 0 and ``loss``, is as in
    `inverting-gradients`, which this is for one step on all examples. ``cost`` counts gradient evaluations, T a simulation.

    The training is ``known``, ``guessed`` (plain SGD), or ``searched``: of several guesses that of least mean loss, after
    ``trial`` iterations from the same start, is taken for all captures, and told in ``notes``. Cosine needs no scale: for lots
    of all examples and with H the Hessian, $\Delta(x') / (\eta T) = -g + \frac{1}{2} \eta (T - 1) H g + O(\eta^2)$, so that
    guesses of about the same $\eta (T - 1)$ have about the same loss.

    A client's examples stand in the same lots in every epoch of the simulation: where it draws them anew, even the true inputs
    do not match exactly, and ``notes`` say so.

    Raises `ConfigError` where a simulation would take more than ``longest`` steps, or no settings are granted.

    Sources: Geiping, Bauermeister, Droege, Moeller, NeurIPS 2020, 2003.14053, section 5; Dimitrov, Balunovic, Konstantinov,
    Vechev, TMLR 2022, 2206.12395, whose separate inputs for each epoch are left out.
    """

    def __init__(self, config: FedavgInversionConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        guesses, config = self._guesses(view), self.config
        shares = [config.trial] * len(guesses) if len(guesses) > 1 else []
        whole = sum(shares) + config.iterations
        tries: list[Reconstruction] = []
        at = 0.0
        quick = recipe(config.model_copy(update={"iterations": config.trial, "restarts": 1, "snapshots": 0}))
        for guess, share in zip(guesses, shares, strict=False):
            tries.append(self._under(guess, view, quick, _part(ctx, at / whole, share / whole)))
            at += share
        losses = [_mean(found) for found in tries] or [0.0]
        chosen = losses.index(min(losses))
        found = self._under(guesses[chosen], view, recipe(config), _part(ctx, at / whole, config.iterations / whole))
        cost = found.cost + sum(found.cost for found in tries)
        return replace(found, cost=cost, notes=(*found.notes, *_told(guesses, losses, chosen)))

    def _guesses(self, view: View) -> list[LocalSettings]:
        config = self.config
        if config.local == "known":
            if view.settings is None:
                raise ConfigError("local: known, but the clients' settings are not granted; set local: guessed, and client_*")
            return [view.settings]
        lengths: list[tuple[int, int | None]] = [(1, steps) for steps in config.client_steps] or [
            (epochs, None) for epochs in config.client_epochs
        ]
        return [
            LocalSettings("fedavg", lr, 0.0, 0.0, config.client_batch, epochs, steps)
            for lr, (epochs, steps) in product(config.client_lr, lengths)
        ]

    def _under(self, settings: LocalSettings, view: View, recipe: Recipe, ctx: Setup) -> Reconstruction:
        """The reconstructions on the assumption that clients train by ``settings``."""
        view = replace(view, settings=settings)
        every = [self._admitted(part, settings) for stack in stacks(view, self.config.labels) for part in _even(stack)]
        simulating = replace(
            recipe, look=lambda stack: unrolled(stack, settings), graphs=lambda stack: gradients(stack, settings)
        )
        return descend(view, every, simulating, ctx)

    def _admitted(self, stack: Stack, settings: LocalSettings) -> Stack:
        """The stack, with a note where its clients' lots are not known; refused where it is too long to simulate."""
        steps = gradients(stack, settings)
        if steps > self.config.longest:
            raise ConfigError(
                f"a row of round {stack.captures[0].round} is of {steps} local steps, and longest is {self.config.longest}; "
                "raise longest (memory grows with the steps), or attack with inverting-gradients"
            )
        if all(lot == course.lots[0] for course in behind(stack, settings) for lot in course.lots):
            return stack
        return replace(stack, notes=(*stack.notes, LOTS))


LOTS = "which examples shared a batch is not sent: they were simulated in one order in all epochs, which bounds the match"


def _even(stack: Stack) -> list[Stack]:
    """The captures of a stack, apart by how many clients are behind them."""
    counts = [capture.count for capture in stack.captures]
    return [stack.take([i for i, c in enumerate(counts) if c == count]) for count in sorted(set(counts))]


def _part(ctx: Setup, at: float, share: float) -> Setup:
    """The context whose progress is the part of ``ctx``'s that begins ``at``."""
    progress = ctx.progress
    return replace(ctx, progress=lambda text, fraction: progress(text, at + share * fraction))


def _mean(found: Reconstruction) -> float:
    """The mean loss; infinite where one is not finite."""
    losses = list(found.loss.values())
    return sum(losses) / max(1, len(losses)) if all(map(isfinite, losses)) else float("inf")


def _told(guesses: list[LocalSettings], losses: list[float], chosen: int) -> tuple[str, ...]:
    """What is to be noted about a choice between guesses."""
    if len(guesses) == 1:
        return ()
    named = [f"lr {g.lr:g} for {g.steps} steps" if g.steps else f"lr {g.lr:g} for {g.epochs} epochs" for g in guesses]
    others = [f"{losses[k]:.2g} with {named[k]}" for k in sorted(range(len(losses)), key=losses.__getitem__) if k != chosen]
    return (f"local training was searched: {named[chosen]} has the least loss, {losses[chosen]:.2g}; next is {others[0]}",)
