"""The distribution keeps every law of the contract that applies to it."""

from sparring_update_analysis.plugin import sparring_plugins

from sparring.testing import conformance

test_conformance = conformance(
    sparring_plugins,
    examples={
        "norm-bound": [{"bound": 0.5}],
        "dnc": [{"iterations": 3, "coordinates": 20}],
        "sattler-clustering": [{"gamma": 0.6}],
    },
)
