"""Attacks on attestation, each with the error it must meet; and every single flipped bit."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.enclave import quote_writer
from privlib.enclave.policy import TCB_STATUSES, QuotePolicy
from privlib.enclave.quote import parse_quote
from privlib.enclave.refusals import (
    AttestationError,
    DebugError,
    EvidenceError,
    ExpiredError,
    FreshnessError,
    MeasurementError,
    PolicyError,
    QuoteFormatError,
    SignerError,
    TcbStatusError,
    UnlistedPlatformError,
    VersionError,
)
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.enclave.verify import VerifiedQuote, verify_quote
from tests.enclave.attestation import forged
from tests.enclave.attestation.conftest import MEASUREMENT, NOW, REPORT_DATA, SIGNER, Evidence, real

Attack = Callable[[Evidence, SimulatedRoot], Evidence]


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def patch(offset: int, value: bytes) -> Attack:
    return lambda e, _: replace(e, quote=e.quote[:offset] + value + e.quote[offset + len(value) :])


def policy(**values: object) -> Attack:
    return lambda e, _: replace(e, policy=replace(e.policy, **values))  # type: ignore[arg-type]  # any field


def quote(make: Callable[[SimulatedRoot], bytes]) -> Attack:
    return lambda e, root: replace(e, quote=make(root))


def collateral(change: Callable[[dict[str, str]], object]) -> Attack:
    def act(e: Evidence, _: SimulatedRoot) -> Evidence:
        data = json.loads(e.collateral)
        change(data)
        return replace(e, collateral=json.dumps(data))

    return act


def swap_key(e: Evidence, root: SimulatedRoot) -> Evidence:
    """Sign with a key of one's own and name it in the quote, beside the honest quoting enclave's report."""
    own, parsed = SimulatedRoot.create(NOW).attestation_key, parse_quote(e.quote)
    made = quote_writer.quote(parsed.signed, own, parsed.qe_report_bytes, parsed.qe_report_signature,
                              parsed.authentication_data, parsed.certification_chain)  # fmt: skip
    return replace(e, quote=made)


def transplant_qe(e: Evidence, root: SimulatedRoot) -> Evidence:
    """An own quoting enclave, signed by an own provisioning key, with the honest platform's certificates."""
    own = SimulatedRoot.create(NOW)
    parsed = parse_quote(own.quote(MEASUREMENT, SIGNER, 7, 3, False, REPORT_DATA))
    made = quote_writer.quote(parsed.signed, own.attestation_key, parsed.qe_report_bytes, parsed.qe_report_signature,
                              parsed.authentication_data, forged.chain(root))  # fmt: skip
    return replace(e, quote=made)


def relabel_root(e: Evidence, root: SimulatedRoot) -> Evidence:
    """The attacker's whole installation; only the root that the verifier chose stands in the way."""
    own = SimulatedRoot.create(NOW)
    return replace(e, quote=own.quote(MEASUREMENT, SIGNER, 7, 3, False, REPORT_DATA), collateral=own.collateral(NOW))


def report(**values: object) -> bytes:
    fields: dict[str, object] = {"debug": False, **values}
    return quote_writer.report(bytes([1] * 16), MEASUREMENT, SIGNER, 7, 3, REPORT_DATA, **fields)  # type: ignore[arg-type]


def trust_domain(attributes: int) -> Attack:
    def act(_: Evidence, root: SimulatedRoot) -> Evidence:
        accepted = QuotePolicy(any_enclave=True, tcb_statuses=TCB_STATUSES, root=root.certificate)
        made = forged.tdx_quote(root, forged.SEPT_VE_DISABLE | attributes)
        return Evidence(made, forged.tdx_collateral(root, NOW), NOW, accepted)

    return act


ATTACKS: dict[str, tuple[Attack, type[AttestationError]]] = {
    "another measurement": (policy(measurements=frozenset({bytes(32)})), MeasurementError),
    "another signer": (policy(signers=frozenset({bytes(32)})), SignerError),
    "another product of the same signer": (policy(product_id=8), VersionError),
    "an old version with a known hole": (policy(minimum_svn=4), VersionError),
    "a platform that nobody chose": (policy(platforms=frozenset({bytes(16)})), UnlistedPlatformError),
    "a replayed quote": (policy(report_data=bytes(64)), FreshnessError),
    "a policy that names no enclave": (policy(measurements=frozenset()), PolicyError),
    "a debug enclave of the right measurement": (quote(lambda r: forged.sgx_quote(r, report(debug=True))), DebugError),
    "a debug quoting enclave": (quote(lambda r: forged.sgx_quote(r, report(), True)), DebugError),
    "a debug trust domain": (trust_domain(0x01), DebugError),
    "reserved bits 7:1 of a trust domain": (trust_domain(0x02), EvidenceError),
    "out-of-date firmware": (
        lambda e, r: replace(e, collateral=r.collateral(NOW, "OutOfDate", ["INTEL-SA-00837"])),
        TcbStatusError,
    ),
    "the quote of another root": (relabel_root, EvidenceError),
    "an attestation key of one's own": (swap_key, EvidenceError),
    "a quoting enclave of one's own": (transplant_qe, EvidenceError),
    "a changed measurement": (patch(48 + 64, bytes(32)), EvidenceError),
    "changed report data": (patch(48 + 320, bytes(64)), EvidenceError),
    "a raised SVN": (patch(48 + 258, b"\xff\xff"), EvidenceError),
    "a zero signature": (patch(436, bytes(64)), EvidenceError),
    "an attestation key off the curve": (patch(500, b"\1" * 64), EvidenceError),
    "another vendor's quoting enclave": (patch(12, bytes(16)), EvidenceError),
    "expired collateral": (lambda e, r: replace(e, collateral=r.collateral(NOW - 31 * 86400)), ExpiredError),
    "collateral from the future": (lambda e, r: replace(e, collateral=r.collateral(NOW + 86400)), ExpiredError),
    "a clock set back": (lambda e, r: replace(e, now=NOW - 400 * 86400), ExpiredError),
    "an edited TCB status": (
        collateral(lambda c: c.update(tcb_info=c["tcb_info"].replace("1", "0", 1))),
        EvidenceError,
    ),
    "QE identity in the place of TCB info": (
        collateral(lambda c: c.update(tcb_info=c["qe_identity"], tcb_info_signature=c["qe_identity_signature"])),
        EvidenceError,
    ),
    "an empty revocation list": (collateral(lambda c: c.update(pck_crl="")), EvidenceError),
    "another authority's revocation list": (collateral(lambda c: c.update(pck_crl=c["root_ca_crl"])), EvidenceError),
    "a quote of nothing": (quote(lambda r: b""), QuoteFormatError),
    "a quote that is text": (quote(lambda r: b"-----BEGIN QUOTE-----"), QuoteFormatError),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_meets_its_error(name: str, simulated: Evidence, simulated_root: SimulatedRoot) -> None:
    attack, error = ATTACKS[name]
    verify_quote(simulated.quote, simulated.policy, simulated.collateral, simulated.now)  # before the attack it holds
    attacked = attack(simulated, simulated_root)
    with pytest.raises(AttestationError) as refused:
        verify_quote(attacked.quote, attacked.policy, attacked.collateral, attacked.now)
    assert type(refused.value) is error, refused.value


def test_a_fresh_quote_binds_key_nonce_and_purpose(simulated: Evidence, simulated_root: SimulatedRoot) -> None:
    accepted = simulated.policy.fresh(b"k" * 32, b"n" * 32, "training")
    assert accepted.report_data is not None
    made = simulated_root.quote(MEASUREMENT, SIGNER, 7, 3, False, accepted.report_data)
    assert verify_quote(made, accepted, simulated.collateral, NOW).report_data == accepted.report_data
    for key, nonce, purpose in (
        (b"K" * 32, b"n" * 32, "training"),
        (b"k" * 32, b"N" * 32, "training"),
        (b"k" * 32, b"n" * 32, "inference"),
        (b"k" * 31, b"k" + b"n" * 32, "training"),  # the same bytes in a row, cut at another place
    ):
        with pytest.raises(FreshnessError):
            verify_quote(made, simulated.policy.fresh(key, nonce, purpose), simulated.collateral, NOW)


def regions(evidence: Evidence) -> range:
    """Bits of header, body, length, signature, attestation key, QE report and its signature."""
    parsed = parse_quote(evidence.quote)
    inner = 6 if parsed.header.version == 4 else 0
    return range(8 * (len(parsed.signed) + 4 + 64 + 64 + inner + 384 + 64))


def claims(verdict: VerifiedQuote) -> VerifiedQuote:
    """What was verified, without the bytes of the certificate chain (how PEM is spelled changes nothing)."""
    bare = replace(verdict.quote, certification_chain=b"")
    return replace(verdict, quote=bare)


def flips_are_refused(evidence: Evidence, bits: range) -> None:
    for bit in bits:
        with pytest.raises((QuoteFormatError, EvidenceError, DebugError)):
            verify_quote(flip(evidence.quote, bit), evidence.policy, evidence.collateral, evidence.now)


def flip_has_no_effect(evidence: Evidence, bits: range) -> int:
    """How many flips were accepted; each of those with the same claims."""
    expected = claims(verify_quote(evidence.quote, evidence.policy, evidence.collateral, evidence.now))
    accepted = 0
    for bit in bits:
        try:
            found = verify_quote(flip(evidence.quote, bit), evidence.policy, evidence.collateral, evidence.now)
        except AttestationError:
            continue
        accepted += 1
        assert claims(found) == expected, bit
    return accepted


@pytest.mark.parametrize("name", ["sgx", "tdx", "simulated"])
def test_a_flipped_bit_of_what_is_signed_is_refused(name: str, request: pytest.FixtureRequest) -> None:
    evidence: Evidence = request.getfixturevalue(name)
    bits = regions(evidence)
    flips_are_refused(evidence, bits[::13])


@pytest.mark.parametrize("name", ["sgx", "tdx", "simulated"])
def test_a_flipped_bit_elsewhere_is_refused_or_without_effect(name: str, request: pytest.FixtureRequest) -> None:
    evidence: Evidence = request.getfixturevalue(name)
    rest = range(regions(evidence).stop, 8 * len(evidence.quote))
    assert flip_has_no_effect(evidence, rest[::31]) < len(rest[::31])


@pytest.mark.soak
@pytest.mark.parametrize("name", ["sgx", "tdx", "simulated"])
def test_every_single_flipped_bit(name: str, request: pytest.FixtureRequest) -> None:
    evidence: Evidence = request.getfixturevalue(name)
    bits = regions(evidence)
    flips_are_refused(evidence, bits)
    flip_has_no_effect(evidence, range(bits.stop, 8 * len(evidence.quote)))


SGX = real("sgx", 1750416971, "ConfigurationAndSWHardeningNeeded")
SGX_CLAIMS = claims(verify_quote(SGX.quote, SGX.policy, SGX.collateral, SGX.now))


@st.composite
def damaged(draw: st.DrawFn) -> tuple[bytes, str]:
    """Pieces of the quote or of its collateral overwritten, cut out or put in."""
    made, text = bytearray(SGX.quote), SGX.collateral
    if draw(st.booleans()):
        at = draw(st.integers(0, len(made)))
        made[at : at + draw(st.sampled_from((0, 1, 4, 64)))] = draw(st.binary(max_size=8))
    else:
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.text(max_size=8)) + text[at + draw(st.sampled_from((0, 1, 4, 64))) :]
    return bytes(made), text


def accepted_only_unchanged(case: tuple[bytes, str]) -> None:
    try:
        found = verify_quote(case[0], SGX.policy, case[1], SGX.now)
    except AttestationError:
        return
    assert claims(replace(found, quote=replace(found.quote, trailing_zeros=0))) == SGX_CLAIMS


@given(damaged())
@settings(max_examples=300, deadline=None)
def test_damaged_evidence_is_refused_or_says_the_same(case: tuple[bytes, str]) -> None:
    accepted_only_unchanged(case)


@pytest.mark.soak
@given(damaged())
@settings(max_examples=100_000, deadline=None)
def test_100_000_pieces_of_damaged_evidence(case: tuple[bytes, str]) -> None:
    accepted_only_unchanged(case)
