"""Checks of reference cards: each technique has one, its numbers come out again, and they stand on the core line."""

from __future__ import annotations

from sparring.errors import SparringError
from sparring.testing.cards import Card, changed_source, function, read_card, reproduce, without_core
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.subject import EVERY, Subject

QUICK = 10.0
"""Seconds up to which the kit measures a card; `sparring reproduce` measures them all."""


def _card(subject: Subject) -> Card:
    try:
        return read_card(subject.module, subject.spec.name)
    except SparringError as error:
        raise AssertionError(str(error)) from error


def _quick(subject: Subject) -> Card:
    card = _card(subject)
    if card.seconds > QUICK:
        raise Inapplicable(f"its card takes {card.seconds:g} s: sparring reproduce {subject.spec.name}")
    return card


@check(EVERY)
def card_given(subject: Subject) -> None:
    """Law: a technique carries a card: source, setting, expected numbers, the function that measures them, the core line.
    Why: a defence that is not what its name says is found by a number, not by reading.
    If this fails: write `<technique>.card.yaml` beside its module; `sparring new` shows one.
    """
    card = _card(subject)
    try:
        function(card)
        for core in card.core:
            changed_source(card.technique, core)
    except SparringError as error:
        raise AssertionError(str(error)) from error


@check(EVERY)
def card_reproduces(subject: Subject) -> None:
    """Law: the numbers of a card that takes at most ten seconds come out within their tolerances.
    Why: published numbers that nobody can reproduce are this field's commonest complaint.
    If this fails: find which is wrong, the code or the card; never widen a tolerance without a reason in `setting`.
    """
    found = reproduce(_quick(subject))
    off = [f"{row.quantity}: expected {row.expected}, got {row.got}" for row in found.rows if not row.holds]
    demand(not off, "; ".join(off))


@check(EVERY)
def card_falls(subject: Subject) -> None:
    """Law: with a core line replaced, the card's measurement still ends, and some number is not as expected.
    Why: a card that passes without the technique says nothing about it.
    If this fails: measure what the technique does, against what there is without it; give `instead` code that runs.
    """
    card = _quick(subject)
    for core in card.core:
        with without_core(card, core):
            found = reproduce(card)
        demand(not found.holds, f"every number comes out without {core.line!r} of {core.module}")
