"""The distribution keeps every law of the contract that applies to it."""

from sparring_model_inversion.plugin import sparring_plugins

from sparring.testing import conformance

test_conformance = conformance(sparring_plugins)
