"""Analyses that look at the model behind an update."""

from __future__ import annotations

from sparring.specs import AnySpec

OTHERS: tuple[AnySpec, ...] = ()
