"""The distribution keeps every law of the contract that applies to it."""

from sparring_aggregation.plugin import sparring_plugins

from sparring.testing import conformance

XFAIL = {"trimmed-mean::config-round-trip": "its validator refuses its own dump: f at its default beside beta counts as set"}
test_conformance = conformance(sparring_plugins, xfail=XFAIL)
