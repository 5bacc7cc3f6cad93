"""The distribution keeps every law of the contract that applies to it."""

from sparring_aggregation.plugin import sparring_plugins

from sparring.testing import conformance

test_conformance = conformance(
    sparring_plugins,
    examples={"monna": [{"trusted": 4}]},
    xfail={
        "monna::lazy-cohort": "it needs Identified: among mixed rows there is none of the client that it trusts",
        "monna::outliers-resisted": "with f = 2 the kit lets the trusted client lie, which nothing that trusts it can bear",
    },
)
