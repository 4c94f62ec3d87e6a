"""What a notebook shows of refusals: each is refused for its own reason, and what is not refused is an error."""

from pathlib import Path

import pytest

from privlib.enclave import demonstrations
from privlib.enclave.image import EnclaveImage
from privlib.enclave.launcher import launch
from privlib.enclave.policy import QuotePolicy
from privlib.enclave.state import StateStore
from privlib.trusted.terms import Terms
from tests.enclave.providers import Provider, request


def test_attestations_and_requests_are_refused_for_their_own_reasons(
    training_image: EnclaveImage, training_policy: QuotePolicy, state: StateStore, tmp_path: Path
) -> None:
    provider = Provider(tmp_path / "data", 60, Terms(8.0))
    with launch(training_image, state=state) as enclave, enclave.connect(training_policy) as session:
        refused = demonstrations.failed_attestations(enclave, training_image, training_policy)
        assert [row["answer"] for row in refused] == [
            "EvidenceError", "MeasurementError", "FreshnessError", "DebugError", "EvidenceError",
        ]  # fmt: skip
        provider.release_to(session)
        session.train(request(provider, steps=1))
        newest = request(provider, steps=1)
        assert demonstrations.put_back(session, state, newest)["answer"] == "RollbackError"
        session.train(newest)  # the newest ledger is in its place again
        assert demonstrations.over_budget(session, request(provider, steps=100_000))["answer"] == "BudgetError"
        with pytest.raises(AssertionError, match="nobody refused"):
            demonstrations.over_budget(session, newest)
