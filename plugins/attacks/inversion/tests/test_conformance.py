"""The distribution keeps every law of the contract that applies to it."""

from sparring_inversion.plugin import sparring_plugins

from sparring.testing import conformance

QUICK = {
    "inverting-gradients": {"iterations": 150, "restarts": 1, "compiled": False},
    "dlg": {"iterations": 60, "restarts": 0},
    "cpl": {"iterations": 60, "restarts": 0},
    "adversarial-priors": {"iterations": 150},
    "fedavg-inversion": {"iterations": 150, "restarts": 1},
    "gradinversion": {"iterations": 150, "restarts": 1},
    "tableak": {"iterations": 150, "restarts": 4},
}
test_conformance = conformance(sparring_plugins, fast=QUICK)
