"""The distribution keeps every law of the contract that applies to it."""

from sparring_aggregation.plugin import sparring_plugins

from sparring.testing import conformance

FEW = "the kit's stage has 6 clients, and 4f + 3 <= n needs 7 for f = 1: test_definitions tests the same law with 7"
ON_STAGE = ("input-untouched", "global-state-untouched", "reproducible", "rounds-differ", "state-declared")

test_conformance = conformance(sparring_plugins, xfail={f"bulyan::{check}": FEW for check in ON_STAGE})
