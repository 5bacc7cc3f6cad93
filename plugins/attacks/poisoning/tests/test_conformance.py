"""The distribution keeps every law of the contract that applies to it."""

from sparring_poisoning.plugin import sparring_plugins

from sparring.testing import conformance

test_conformance = conformance(
    sparring_plugins,
    xfail={"non-finite::attack-keeps-form": "it sends NaN and infinity; core rejects such rows, and its card counts them"},
)
