"""The distribution keeps every law of the contract that applies to it."""

from sparring_data_analysis.plugin import sparring_plugins

from sparring.testing import conformance

WIRE = "the kit knows a wire format of updates alone; here the federation forces that data are handed in to be analysed"
FILTERS = ("spectral-signatures", "activation-clustering", "loss-filter", "influence-filter")

test_conformance = conformance(sparring_plugins, xfail={f"{name}::layers-legal": WIRE for name in FILTERS})
