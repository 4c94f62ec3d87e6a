"""Quotes checked on chain: every part of the chain of trust, wrong in turn; and the way without the precompile."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from privlib.enclave import quote_writer
from privlib.enclave.refusals import QuoteFormatError
from privlib.enclave.simulated_root import SimulatedRoot
from privlib.sterling.chain import Account, EmbeddedChain, RevertedError, compile_vyper
from privlib.sterling.contracts.market import code, deploy_market
from privlib.sterling.contracts.quotes import (
    P256_ORDER,
    QuotingEnclave,
    RegistryQuote,
    low_s,
    pck_key,
    platform_id,
    registry_quote,
    session_report_data,
)
from privlib.sterling.contracts.terms import Revocable

from .scene import MEASUREMENT, SIGNER, TCB, Scene, quote

VECTORS = Path(__file__).parents[2] / "vectors" / "attestation"


@pytest.fixture
def session() -> Account:
    return Account("another session")


def register(scene: Scene, made: RegistryQuote, session: Account) -> Any:
    return scene.market.attestation.transact("register", made, session, sender=scene.stranger)


def refused(reason: str) -> Any:
    return pytest.raises(RevertedError, match=f"attestation: {reason}")


def test_a_quote_is_checked_and_its_session_known(on_both: Scene, session: Account) -> None:
    scene, registry = on_both, on_both.market.attestation
    assert registry.call("precompile")
    made = scene.session_quote(session, isv_svn=3, isv_prod_id=2)
    receipt = register(scene, registry_quote(made), session)
    evidence = registry.events_of(receipt, "SessionRegistered")[0]["evidence"]
    expires = receipt.block.timestamp + registry.call("session_seconds")
    assert evidence == (MEASUREMENT, SIGNER, 2, 3, platform_id(pck_key(made)), TCB, expires, True)
    assert registry.call("valid", session, evidence, expires)
    assert not registry.call("valid", session, evidence, expires + 1)
    assert not registry.call("valid", Account("nobody"), evidence, expires)
    for field in range(8):
        forged = list(evidence)
        forged[field] = (b"\xff" * 32, b"\xff" * 32, 9, 9, b"\xff" * 32, b"\xff" * 32, expires + 9, False)[field]
        assert not registry.call("valid", session, tuple(forged), expires)


def test_the_binding_is_of_chain_registry_and_session(scene: Scene, session: Account) -> None:
    address = scene.market.attestation.address
    bound = session_report_data(scene.chain.chain_id, address, session.address, b"f" * 32)
    assert bound[:32] == scene.market.attestation.call("binding", session) and bound[32:] == b"f" * 32
    for other in (
        session_report_data(1, address, session.address),
        session_report_data(scene.chain.chain_id, scene.market.escrow.address, session.address),
        session_report_data(scene.chain.chain_id, address, scene.stranger.address),
        bytes(64),
    ):
        with refused("session not bound"):
            register(scene, registry_quote(quote(other)), session)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


@pytest.mark.parametrize("at", [8, 48, 111, 112, 143, 176, 304, 306, 368, 431])
def test_a_changed_bit_in_header_or_report_breaks_the_signature(scene: Scene, session: Account, at: int) -> None:
    made = registry_quote(scene.session_quote(session))
    with refused("signature"):
        register(scene, replace(made, signed=flip(made.signed, at)), session)


@pytest.mark.parametrize("at", [0, 64, 130, 300, 383])
def test_a_changed_bit_in_the_qe_report_breaks_its_signature(scene: Scene, session: Account, at: int) -> None:
    made = registry_quote(scene.session_quote(session))
    with refused("QE report signature"):
        register(scene, replace(made, qe_report=flip(made.qe_report, at)), session)


@pytest.mark.parametrize("at", [0, 2, 4])
def test_another_version_key_or_tee_type_is_refused(scene: Scene, session: Account, at: int) -> None:
    made = registry_quote(scene.session_quote(session))
    with refused("version, key or TEE type"):
        register(scene, replace(made, signed=flip(made.signed, at)), session)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"key_x": 1}, "key not bound by the QE"),
        ({"authentication": b"other"}, "key not bound by the QE"),
        ({"pck_x": 1}, "unknown PCK key"),
        ({"r": 0}, "signature"),
        ({"s": 0}, "signature"),
        ({"r": P256_ORDER}, "signature"),
        ({"qe_r": 1}, "QE report signature"),
        ({"signed": b""}, "quote length"),
        ({"qe_report": b""}, "QE report length"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_does_not_belong_together_is_refused(
    scene: Scene, session: Account, change: dict[str, Any], reason: str
) -> None:
    with refused(reason):
        register(scene, replace(registry_quote(scene.session_quote(session)), **change), session)


def test_the_higher_s_is_refused_and_taken_apart_as_the_lower(scene: Scene, session: Account) -> None:
    made = registry_quote(scene.session_quote(session))
    assert made.s == low_s(P256_ORDER - made.s) and made.qe_s <= P256_ORDER // 2
    with refused("signature"):
        register(scene, replace(made, s=P256_ORDER - made.s), session)
    with refused("QE report signature"):
        register(scene, replace(made, qe_s=P256_ORDER - made.qe_s), session)
    register(scene, made, session)


def test_an_enclave_in_debug_mode_is_refused(scene: Scene, session: Account) -> None:
    with refused("debug mode"):
        register(scene, registry_quote(scene.session_quote(session, debug=True)), session)


def test_a_platform_that_nobody_vouched_for_is_refused(scene: Scene, session: Account) -> None:
    made = registry_quote(replace(scene, root=SimulatedRoot.create()).session_quote(session))
    with refused("unknown PCK key"):
        register(scene, made, session)


def test_an_attestation_key_of_ones_own_does_not_pass(scene: Scene, session: Account) -> None:
    """The report signed by a key that no quoting enclave bound."""
    made, thief = registry_quote(scene.session_quote(session)), generate_private_key(SECP256R1())
    own = quote_writer.sign(thief, made.signed)
    x, y = (int.from_bytes(quote_writer.public_bytes(thief)[at : at + 32], "big") for at in (0, 32))
    r, s = int.from_bytes(own[:32], "big"), low_s(int.from_bytes(own[32:], "big"))
    with refused("key not bound by the QE"):
        register(scene, replace(made, r=r, s=s, key_x=x, key_y=y), session)
    with refused("signature"):
        register(scene, replace(made, r=r, s=s), session)


@pytest.mark.parametrize(
    ("change", "debug", "data", "reason"),
    [
        ({"signer": bytes(32)}, False, None, "QE signer"),
        ({"product": 9}, False, None, "QE product"),
        ({"svn": 0}, False, None, "QE too old"),
        ({}, True, None, "QE in debug mode"),
        ({}, False, b"x" * 32, "QE report data"),
    ],
    ids=["signer", "product", "svn", "debug", "data"],
)
def test_another_quoting_enclave_is_refused(
    scene: Scene, session: Account, change: dict[str, Any], debug: bool, data: bytes | None, reason: str
) -> None:
    """One that the platform's PCK key really signed, but which is not the one this registry takes."""
    made = registry_quote(scene.session_quote(session))
    expected = QuotingEnclave.of(scene.session_quote(session))
    fields = {"signer": expected.signer, "product": expected.product, "svn": expected.least_svn, **change}
    bound = made.qe_report[320:352] + (data or bytes(32))
    report = quote_writer.report(
        bytes(16), bytes(32), fields["signer"], fields["product"], fields["svn"], bound, debug=debug
    )
    signature = quote_writer.sign(scene.root.pck.key, report)
    r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
    with refused(reason):
        register(scene, replace(made, qe_report=report, qe_r=r, qe_s=low_s(s)), session)


def test_an_old_quote_does_not_prolong_a_session(scene: Scene) -> None:
    made = registry_quote(scene.session_quote(scene.session))
    with refused("session is registered"):
        register(scene, made, scene.session)
    scene.chain.advance(30 * 86_400)
    with refused("session is registered"):
        register(scene, made, scene.session)
    assert not scene.market.attestation.call("valid", scene.session, scene.evidence, scene.now)


@pytest.mark.parametrize("kind", list(Revocable))
def test_what_is_revoked_is_refused_now_and_later(scene: Scene, session: Account, kind: Revocable) -> None:
    """A leaked attestation key: the administrator revokes its platform, or the whole TCB level."""
    registry, evidence = scene.market.attestation, scene.evidence
    values = {
        Revocable.MEASUREMENT: evidence.measurement,
        Revocable.SIGNER: evidence.signer,
        Revocable.PLATFORM: evidence.platform,
        Revocable.TCB: evidence.tcb,
        Revocable.SESSION: bytes(12) + bytes.fromhex(scene.session.address[2:]),
    }
    assert registry.call("valid", scene.session, evidence, scene.now)
    with refused("not the administrator"):
        registry.transact("revoke", kind, values[kind], sender=scene.executor)
    registry.transact("revoke", kind, values[kind], sender=scene.admin)
    assert not registry.call("valid", scene.session, evidence, scene.now)
    if kind != Revocable.SESSION:
        with refused("revoked"):
            register(scene, registry_quote(scene.session_quote(session)), session)


def test_the_administrator_alone_vouches_for_platforms(scene: Scene) -> None:
    with refused("not the administrator"):
        scene.market.attestation.transact("trust_platform", 1, 2, TCB, sender=scene.executor)
    with refused("no TCB level"):
        scene.market.attestation.transact("trust_platform", 1, 2, bytes(32), sender=scene.admin)
    for kind in (0, 6):
        with refused("no such kind"):
            scene.market.attestation.transact("revoke", kind, TCB, sender=scene.admin)


def test_without_the_precompile_the_verifiers_word_is_taken_and_said_so(session: Account) -> None:
    scene = Scene(EmbeddedChain(p256=False))
    registry = scene.market.attestation
    assert not registry.call("precompile")
    assert scene.evidence.on_chain is False
    with refused("no P-256 precompile"):
        register(scene, registry_quote(scene.session_quote(session)), session)
    fields = (MEASUREMENT, SIGNER, 1, 1, bytes(32), TCB, session)
    with refused("not the verifier"):
        registry.transact("attest", *fields, sender=scene.executor)
    terms = scene.terms()
    scene.request(terms)
    scene.grant(terms)
    scene.complete(terms)


def test_the_verifier_may_be_somebody_else_than_the_administrator(scene: Scene, session: Account) -> None:
    enclave = QuotingEnclave.of(scene.session_quote(session))
    market = deploy_market(scene.chain, scene.admin, enclave, verifier=scene.stranger.address)
    fields = (MEASUREMENT, SIGNER, 1, 1, bytes(32), TCB, session)
    with refused("not the verifier"):
        market.attestation.transact("attest", *fields, sender=scene.admin)
    market.attestation.transact("attest", *fields, sender=scene.stranger)


def test_a_verifier_that_takes_anything_stops_the_deployment(tmp_path: Path) -> None:
    """Something at 0x100 that is no P-256 verifier: the self-test asks for a refusal too."""
    source = tmp_path / "Anything.vy"
    head, body = (
        "@external\n@payable\n@raw_return\ndef __default__() -> Bytes[32]:",
        "return abi_encode(convert(1, uint256))",
    )
    source.write_text(f"{head}\n    {body}\n")
    chain = EmbeddedChain(p256=False)
    admin = chain.account("admin")
    state = chain._state(chain._blocks[-1])
    state.set_code((0x100).to_bytes(20, "big"), compile_vyper(source).runtime)  # type: ignore[arg-type]  # an Address
    chain._append(chain._next(1), state)
    with refused("P-256 verifies anything"):
        chain.deploy(code("AttestationRegistry"), admin, 1, SIGNER, 1, 1, sender=admin)


def test_a_real_processors_quote_passes_as_far_as_its_session(scene: Scene, session: Account) -> None:
    """An Intel quote: both signatures and the binding of its key hold on chain; no session of ours is bound in it."""
    real = (VECTORS / "sgx_quote").read_bytes()
    market = deploy_market(scene.chain, scene.admin, QuotingEnclave.of(real))
    market.attestation.transact("trust_platform", *pck_key(real), TCB, sender=scene.admin)
    with refused("session not bound"):
        market.attestation.transact("register", registry_quote(real), session, sender=scene.admin)


def test_quotes_that_the_registry_cannot_read_are_refused_before_they_are_sent() -> None:
    with pytest.raises(QuoteFormatError, match="reads SGX quotes"):
        registry_quote((VECTORS / "tdx_quote").read_bytes())
    with pytest.raises(QuoteFormatError):
        registry_quote(b"nothing")
    good = quote(bytes(64))
    for broken in (b"-----BEGIN X-----", b""):
        start = good.index(b"-----BEGIN CERTIFICATE")
        with pytest.raises(QuoteFormatError):
            pck_key(good[:start] + broken.ljust(len(good) - start, b" "))
