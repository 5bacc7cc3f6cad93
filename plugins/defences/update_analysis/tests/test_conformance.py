"""The distribution keeps every law of the contract that applies to it."""

from sparring_update_analysis.plugin import sparring_plugins

from sparring.testing import conformance

COLUMNS = "the kit gives it rows of 40 numbers beside a lab whose model has 2,212, and a server's update has the model's"
LAWS = ("space-as-declared", "summable-kept", "identified-kept", "judged-given", "judged-kept")

test_conformance = conformance(
    sparring_plugins,
    examples={
        "norm-bound": [{"bound": 0.5}],
        "dnc": [{"iterations": 3, "coordinates": 20}],
        "sattler-clustering": [{"gamma": 0.6}],
    },
    xfail={f"fltrust::{law}": COLUMNS for law in LAWS},
)
