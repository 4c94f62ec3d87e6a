"""What verification accepts: real quotes at their time, simulated ones under their root, and what a policy names."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from privlib.enclave import verify
from privlib.enclave.policy import TCB_STATUSES, QuotePolicy
from privlib.enclave.quote import SgxReport
from privlib.enclave.refusals import (
    CollateralError,
    EvidenceError,
    ExpiredError,
    PolicyError,
    RevokedError,
    TcbStatusError,
)
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.verify import INTEL_ROOT, verify_quote
from tests.enclave.attestation import forged
from tests.enclave.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA, SIGNER, Evidence


def test_the_real_sgx_quote_verifies_when_its_status_is_named(sgx: Evidence) -> None:
    verdict = verify_quote(sgx.quote, sgx.policy, sgx.collateral, sgx.now)
    assert verdict.tcb_status == "ConfigurationAndSWHardeningNeeded"
    assert verdict.advisories == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert (verdict.platform_status, verdict.quoting_enclave_status) == (verdict.tcb_status, "UpToDate")
    assert verdict.report_data.startswith(b"Hello, world!")
    assert verdict.anchor == INTEL_ROOT and not verdict.simulated
    assert (verdict.tee, verdict.product_id, verdict.svn, len(verdict.platform)) == ("SGX", 0, 0, 16)


def test_the_real_sgx_quote_is_refused_by_default_and_the_error_holds_status_and_advisories(sgx: Evidence) -> None:
    with pytest.raises(TcbStatusError, match="INTEL-SA-00289, INTEL-SA-00615") as refused:
        verify_quote(sgx.quote, QuotePolicy(any_enclave=True), sgx.collateral, sgx.now)
    assert refused.value.verdict is not None
    assert refused.value.verdict.tcb_status == "ConfigurationAndSWHardeningNeeded"


def test_the_real_tdx_quote_verifies_as_up_to_date(tdx: Evidence) -> None:
    policy = QuotePolicy(
        measurements=frozenset({verify_quote(tdx.quote, tdx.policy, tdx.collateral, tdx.now).measurement})
    )
    verdict = verify_quote(tdx.quote, policy, tdx.collateral, tdx.now)
    assert (verdict.tee, verdict.tcb_status, verdict.advisories) == ("TDX", "UpToDate", ())
    assert (verdict.signer, verdict.product_id, verdict.svn) == (None, None, None)


@pytest.mark.parametrize("name", ["sgx", "tdx"])
def test_the_real_quotes_are_refused_today(name: str, request: pytest.FixtureRequest) -> None:
    evidence: Evidence = request.getfixturevalue(name)
    for now in (None, time.time()):
        with pytest.raises(ExpiredError, match="fetch new collateral"):
            verify_quote(evidence.quote, evidence.policy, evidence.collateral, now)


def test_a_simulated_quote_verifies_under_its_root_with_every_claim(
    simulated: Evidence, simulated_root: SimulatedRoot
) -> None:
    verdict = verify_quote(simulated.quote, simulated.policy, simulated.collateral, simulated.now)
    assert (verdict.measurement, verdict.signer, verdict.report_data) == (MEASUREMENT, SIGNER, REPORT_DATA)
    assert (verdict.product_id, verdict.svn, verdict.tcb_status) == (7, 3, "UpToDate")
    assert verdict.platform == simulated_root.platform.ppid
    assert verdict.simulated and verdict.anchor.startswith("privlib SIMULATED root, NOT INTEL (SHA-256 ")
    assert isinstance(verdict.quote.report, SgxReport)


def test_intel_s_root_refuses_a_simulated_quote(simulated: Evidence) -> None:
    with pytest.raises(EvidenceError, match="does not verify under this root"):
        verify_quote(simulated.quote, replace(simulated.policy, root=None), simulated.collateral, simulated.now)


def test_one_installation_s_root_refuses_another_s_quote(simulated: Evidence) -> None:
    other = SimulatedRoot.create(NOW)
    for collateral in (simulated.collateral, other.collateral(NOW)):
        with pytest.raises(EvidenceError):
            verify_quote(simulated.quote, replace(simulated.policy, root=other.certificate), collateral, NOW)


@pytest.mark.parametrize("status", sorted(each for each in TCB_STATUSES if not each.startswith("TD")))
def test_every_status_needs_to_be_named_and_stays_in_the_verdict(
    status: str, simulated: Evidence, simulated_root: SimulatedRoot
) -> None:
    collateral = simulated_root.collateral(NOW, status, ["INTEL-SA-SIMULATED"])
    named = replace(simulated.policy, tcb_statuses=frozenset({status}))
    verdict = verify_quote(simulated.quote, named, collateral, NOW)
    assert (verdict.tcb_status, verdict.advisories) == (status, ("INTEL-SA-SIMULATED",))
    others = replace(simulated.policy, tcb_statuses=TCB_STATUSES - {status})
    for policy in (others, *([] if status == "UpToDate" else [simulated.policy])):
        with pytest.raises(TcbStatusError, match=f"{status}, advisories: INTEL-SA-SIMULATED") as refused:
            verify_quote(simulated.quote, policy, collateral, NOW)
        assert refused.value.verdict == verdict


def test_a_revoked_tcb_is_refused_whatever_the_policy(simulated: Evidence, simulated_root: SimulatedRoot) -> None:
    everything = replace(simulated.policy, tcb_statuses=TCB_STATUSES)
    with pytest.raises(RevokedError):
        verify_quote(simulated.quote, everything, simulated_root.collateral(NOW, "Revoked"), NOW)


def test_an_unknown_status_is_refused_whatever_the_policy(simulated: Evidence, simulated_root: SimulatedRoot) -> None:
    everything = replace(simulated.policy, tcb_statuses=TCB_STATUSES)
    with pytest.raises(EvidenceError, match="unknown variant"):
        verify_quote(simulated.quote, everything, simulated_root.collateral(NOW, "Splendid"), NOW)


@pytest.mark.parametrize("who", ["pck", "ca", "tcb", "root"])
def test_a_revoked_certificate_is_refused(who: str, simulated: Evidence, simulated_root: SimulatedRoot) -> None:
    collateral = simulated_root.collateral(NOW, revoked=[getattr(simulated_root, who)])
    with pytest.raises(RevokedError):
        verify_quote(simulated.quote, simulated.policy, collateral, NOW)


@pytest.mark.parametrize("days", [-40, -1, 31, 4000])
def test_outside_its_validity_the_evidence_is_refused(days: int, simulated: Evidence) -> None:
    with pytest.raises(ExpiredError):
        verify_quote(simulated.quote, simulated.policy, simulated.collateral, NOW + days * 86400)


def test_a_trust_domain_under_a_simulated_root_verifies(simulated_root: SimulatedRoot) -> None:
    policy = QuotePolicy(measurements=frozenset({b"\x11" * 48}), root=simulated_root.certificate)
    quote = forged.tdx_quote(simulated_root, forged.SEPT_VE_DISABLE)
    verdict = verify_quote(quote, policy, forged.tdx_collateral(simulated_root, NOW), NOW)
    assert (verdict.tee, verdict.tcb_status, verdict.simulated) == ("TDX", "UpToDate", True)


@pytest.mark.parametrize(
    "values",
    [
        {"measurements": b"x" * 32},
        {"measurements": [b"short"]},
        {"measurements": ["33d8"]},
        {"signers": [b"x" * 48]},
        {"platforms": [b"x"]},
        {"tcb_statuses": "UpToDate"},
        {"tcb_statuses": ["Revoked"]},
        {"tcb_statuses": ["uptodate"]},
        {"report_data": b"x"},
        {"root": b"not a certificate"},
        {"any_enclave": True, "measurements": [b"x" * 32]},
    ],
)
def test_a_malformed_policy_is_refused_when_it_is_made(values: dict[str, object]) -> None:
    with pytest.raises(PolicyError) as refused:
        QuotePolicy(**values)  # type: ignore[arg-type]  # wrong values are the point
    assert refused.value.verdict is None


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "\0", '{"pck_crl_issuer_chain": 1}', "[" * 100_000])
def test_collateral_that_cannot_be_read_is_refused(text: str, simulated: Evidence) -> None:
    with pytest.raises(CollateralError, match="collateral"):
        verify_quote(simulated.quote, simulated.policy, text, NOW)


def test_collateral_too_large_is_refused_unread(simulated: Evidence) -> None:
    with pytest.raises(CollateralError, match="at most"):
        verify_quote(simulated.quote, simulated.policy, " " * (verify.MAXIMUM_COLLATERAL_BYTES + 1), NOW)


def test_without_collateral_a_simulated_quote_asks_for_it(simulated: Evidence) -> None:
    with pytest.raises(CollateralError, match="SimulatedRoot.collateral"):
        verify_quote(simulated.quote, simulated.policy)


def test_without_collateral_and_offline_it_is_asked_for(sgx: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVLIB_OFFLINE", "1")
    with pytest.raises(CollateralError, match="PRIVLIB_OFFLINE=1"):
        verify_quote(sgx.quote, sgx.policy)


def test_without_collateral_it_is_fetched(sgx: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def service(quote: bytes) -> object:
        asked.append(quote)
        return verify.dcap_qvl.QuoteCollateralV3.from_json(sgx.collateral)

    monkeypatch.delenv("PRIVLIB_OFFLINE", raising=False)
    monkeypatch.setattr(verify.dcap_qvl, "get_collateral_from_pcs", service)
    assert verify_quote(sgx.quote, sgx.policy, now=sgx.now) == verify_quote(
        sgx.quote, sgx.policy, sgx.collateral, sgx.now
    )
    assert asked == [sgx.quote]


def test_a_service_that_does_not_answer_is_a_typed_error(sgx: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    async def service(_quote: bytes) -> object:
        raise RuntimeError("no route")

    monkeypatch.delenv("PRIVLIB_OFFLINE", raising=False)
    monkeypatch.setattr(verify.dcap_qvl, "get_collateral_from_pcs", service)
    with pytest.raises(CollateralError, match="no route"):
        verify_quote(sgx.quote, sgx.policy)


def test_two_readers_that_disagree_are_refused(sgx: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the comparison: a library that reports another measurement is not believed."""
    real_verify = verify.dcap_qvl.verify

    class Lying:
        def __init__(self, report: object) -> None:
            self._report = report

        def to_json(self) -> str:
            data = json.loads(self._report.to_json())  # type: ignore[attr-defined]  # the library's own type
            data["report"]["SgxEnclave"]["mr_enclave"] = "00" * 32
            return json.dumps(data)

    monkeypatch.setattr(verify.dcap_qvl, "verify", lambda *arguments: Lying(real_verify(*arguments)))
    with pytest.raises(EvidenceError, match="disagree on mr_enclave"):
        verify_quote(sgx.quote, sgx.policy, sgx.collateral, sgx.now)


def test_a_verifier_waits_for_neither_tvm_nor_torch() -> None:
    """Who checks a quote has a machine of their own; loading a compiler there would take seconds."""
    code = (
        "import sys, privlib.enclave.verify, privlib.enclave.channel, privlib.enclave.delivery;"
        "print(sorted({'tvm', 'tvm_ffi', 'torch', 'numpy'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
