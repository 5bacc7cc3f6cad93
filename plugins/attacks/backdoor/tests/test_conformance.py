"""The distribution keeps every law of the contract that applies to it."""

from sparring_backdoor.plugin import sparring_plugins

from sparring.testing import conformance

NO_ROUND_BEFORE = "the kit's stage has no round before, and where no coordinate moved none is masked"

test_conformance = conformance(sparring_plugins, xfail={"neurotoxin::attack-acts": NO_ROUND_BEFORE})
