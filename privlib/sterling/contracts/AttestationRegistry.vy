# pragma version 0.4.3
# pragma nonreentrancy on
"""
@title Enclave sessions: a quote is checked once, then `ecrecover` suffices
@license Apache-2.0
@notice A session is a secp256k1 key that an enclave made and bound in a quote's report data:
        SHA-256("privlib sterling session v1" ‖ chain id, 32 bytes ‖ this contract, 20 bytes ‖ session, 20 bytes), then
        32 bytes that are free.

        With the P-256 precompile (EIP-7951, address 0x100) `register` checks of an SGX DCAP quote of version 3:
        the attestation key's signature over header and report; version, key type and TEE type; that neither enclave is
        in debug mode; that the quoting enclave's report binds the attestation key, comes from the known quoting enclave
        and is signed by a PCK key that this registry knows. It does not check the PCK certificate's chain, revocation
        lists or TCB info: the administrator does, with those of the maker, before `trust_platform`, and revokes
        here what is revoked there.

        Without the precompile, and for quotes that this contract does not read (TDX), nothing is checked here: `attest`
        takes the word of the authorised verifier, and the evidence says so (`on_chain` is False), for policies to see.
"""
import terms

event PlatformTrusted:
    platform: indexed(bytes32)
    tcb: indexed(bytes32)


event SessionRegistered:
    session: indexed(address)
    evidence: terms.Evidence


event Revoked:
    kind: indexed(uint256)
    what: indexed(bytes32)


# What can be revoked.
MEASUREMENT: constant(uint256) = 1
SIGNER: constant(uint256) = 2
PLATFORM: constant(uint256) = 3
TCB: constant(uint256) = 4
SESSION: constant(uint256) = 5

HEADER: constant(uint256) = 48
REPORT: constant(uint256) = 384
SIGNED: constant(uint256) = HEADER + REPORT
MOST_AUTHENTICATION: constant(uint256) = 128
P256: constant(address) = 0x0000000000000000000000000000000000000100
P256_HALF_ORDER: constant(uint256) = (
    57896044605178124381348723474703786764998477612067880171211129530534256022184
)
LABEL: constant(Bytes[27]) = b"privlib sterling session v1"

# RFC 6979, appendix A.2.5, message "sample" with SHA-256; s as the lower of s and the order less s.
TEST_R: constant(bytes32) = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
TEST_S: constant(bytes32) = 0x0834E36AD29A83BF2BC9385E491D6099C8FDF9D1ED67AA7EA5F51F93782857A9
TEST_X: constant(bytes32) = 0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6
TEST_Y: constant(bytes32) = 0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299


# A DCAP quote of version 3, taken apart (privlib.sterling.contracts.quotes), signatures with the lower s.
struct Quote:
    signed: Bytes[SIGNED]  # header ‖ report
    r: uint256
    s: uint256
    key_x: uint256  # attestation key
    key_y: uint256
    qe_report: Bytes[REPORT]
    qe_r: uint256
    qe_s: uint256
    authentication: Bytes[MOST_AUTHENTICATION]
    pck_x: uint256
    pck_y: uint256


admin: public(immutable(address))
verifier: public(immutable(address))
precompile: public(immutable(bool))
session_seconds: public(immutable(uint256))
qe_signer: public(immutable(bytes32))
qe_product: public(immutable(uint256))
qe_least_svn: public(immutable(uint256))
tcb_of: public(HashMap[bytes32, bytes32])
revoked: public(HashMap[uint256, HashMap[bytes32, bool]])
evidence_of: public(HashMap[address, bytes32])


@deploy
def __init__(verifier_: address, session_seconds_: uint256, qe_signer_: bytes32, qe_product_: uint256, qe_least_svn_: uint256):
    """
    @notice The precompile is tried with a known answer. A missing one and a bad signature look the same (success, no
            output), so that only 32 bytes equal to 1 count; and what also takes a wrong signature is no verifier.
    """
    admin = msg.sender
    verifier = verifier_
    session_seconds = session_seconds_
    qe_signer = qe_signer_
    qe_product = qe_product_
    qe_least_svn = qe_least_svn_
    r: uint256 = convert(TEST_R, uint256)
    s: uint256 = convert(TEST_S, uint256)
    x: uint256 = convert(TEST_X, uint256)
    y: uint256 = convert(TEST_Y, uint256)
    precompile = self._verifies(sha256(b"sample"), r, s, x, y)
    assert not self._verifies(sha256(b"test"), r, s, x, y), "attestation: P-256 verifies anything"


@external
def trust_platform(pck_x: uint256, pck_y: uint256, tcb: bytes32):
    """
    @notice Know a platform by its PCK key, and the TCB level (any name of it) that the key stands for.
    """
    assert msg.sender == admin, "attestation: not the administrator"
    assert tcb != empty(bytes32), "attestation: no TCB level"
    platform: bytes32 = keccak256(abi_encode(pck_x, pck_y))
    self.tcb_of[platform] = tcb
    log PlatformTrusted(platform=platform, tcb=tcb)


@external
def register(quote: Quote, session: address) -> terms.Evidence:
    """
    @notice Check a quote and register the session that it binds: once per session, so that an old quote cannot prolong it.
    """
    assert precompile, "attestation: no P-256 precompile"
    platform: bytes32 = keccak256(abi_encode(quote.pck_x, quote.pck_y))
    tcb: bytes32 = self.tcb_of[platform]
    assert tcb != empty(bytes32), "attestation: unknown PCK key"

    assert len(quote.qe_report) == REPORT, "attestation: QE report length"
    assert self._signed(
        sha256(quote.qe_report), quote.qe_r, quote.qe_s, quote.pck_x, quote.pck_y
    ), "attestation: QE report signature"
    assert not self._debug(slice(quote.qe_report, 48, 1)), "attestation: QE in debug mode"
    assert extract32(quote.qe_report, 128) == qe_signer, "attestation: QE signer"
    assert self._u16(slice(quote.qe_report, 256, 2)) == qe_product, "attestation: QE product"
    assert self._u16(slice(quote.qe_report, 258, 2)) >= qe_least_svn, "attestation: QE too old"
    key: bytes32 = sha256(concat(convert(quote.key_x, bytes32), convert(quote.key_y, bytes32), quote.authentication))
    assert extract32(quote.qe_report, 320) == key, "attestation: key not bound by the QE"
    assert extract32(quote.qe_report, 352) == empty(bytes32), "attestation: QE report data"

    assert len(quote.signed) == SIGNED, "attestation: quote length"
    assert slice(quote.signed, 0, 8) == x"0300020000000000", "attestation: version, key or TEE type"
    assert self._signed(sha256(quote.signed), quote.r, quote.s, quote.key_x, quote.key_y), "attestation: signature"
    assert not self._debug(slice(quote.signed, HEADER + 48, 1)), "attestation: debug mode"
    assert extract32(quote.signed, HEADER + 320) == self._binding(session), "attestation: session not bound"

    evidence: terms.Evidence = terms.Evidence(
        measurement=extract32(quote.signed, HEADER + 64),
        signer=extract32(quote.signed, HEADER + 128),
        product=self._u16(slice(quote.signed, HEADER + 256, 2)),
        svn=self._u16(slice(quote.signed, HEADER + 258, 2)),
        platform=platform,
        tcb=tcb,
        expires=block.timestamp + session_seconds,
        on_chain=True,
    )
    self._record(session, evidence)
    return evidence


@external
def attest(
    measurement: bytes32,
    signer: bytes32,
    product: uint256,
    svn: uint256,
    platform: bytes32,
    tcb: bytes32,
    session: address,
) -> terms.Evidence:
    """
    @notice Register a session on the word of the authorised verifier, who checked its quote off chain.
    """
    assert msg.sender == verifier, "attestation: not the verifier"
    evidence: terms.Evidence = terms.Evidence(
        measurement=measurement,
        signer=signer,
        product=product,
        svn=svn,
        platform=platform,
        tcb=tcb,
        expires=block.timestamp + session_seconds,
        on_chain=False,
    )
    self._record(session, evidence)
    return evidence


@external
def revoke(kind: uint256, what: bytes32):
    """
    @notice Stop trusting a measurement, signer, platform, TCB level or session (its address in the low 20 bytes), for
            good, in sessions that are registered and in those to come.
    """
    assert msg.sender == admin, "attestation: not the administrator"
    assert MEASUREMENT <= kind and kind <= SESSION, "attestation: no such kind"
    self.revoked[kind][what] = True
    log Revoked(kind=kind, what=what)


@external
@view
def binding(session: address) -> bytes32:
    """
    @notice What the first half of the report data must be.
    """
    return self._binding(session)


@external
@view
def valid(session: address, evidence: terms.Evidence, until: uint256) -> bool:
    """
    @notice Whether that is the session's evidence, lasts until then, and nothing in it is revoked.
    """
    return (
        self.evidence_of[session] == keccak256(abi_encode(evidence))
        and until <= evidence.expires
        and not self._any_revoked(session, evidence)
    )


@internal
def _record(session: address, evidence: terms.Evidence):
    assert session != empty(address), "attestation: no session"
    assert self.evidence_of[session] == empty(bytes32), "attestation: session is registered"
    assert not self._any_revoked(session, evidence), "attestation: revoked"
    self.evidence_of[session] = keccak256(abi_encode(evidence))
    log SessionRegistered(session=session, evidence=evidence)


@internal
@view
def _any_revoked(session: address, evidence: terms.Evidence) -> bool:
    return (
        self.revoked[MEASUREMENT][evidence.measurement]
        or self.revoked[SIGNER][evidence.signer]
        or self.revoked[PLATFORM][evidence.platform]
        or self.revoked[TCB][evidence.tcb]
        or self.revoked[SESSION][convert(convert(session, uint160), bytes32)]
    )


@internal
@view
def _binding(session: address) -> bytes32:
    return sha256(
        concat(LABEL, convert(chain.id, bytes32), convert(self, bytes20), convert(session, bytes20))
    )


@internal
@view
def _signed(digest: bytes32, r: uint256, s: uint256, x: uint256, y: uint256) -> bool:
    """
    @notice A signature verifies, and is the one of the two equivalent ones with the lower s.
    """
    return s <= P256_HALF_ORDER and self._verifies(digest, r, s, x, y)


@internal
@view
def _verifies(digest: bytes32, r: uint256, s: uint256, x: uint256, y: uint256) -> bool:
    success: bool = False
    answer: Bytes[32] = b""
    success, answer = raw_call(
        P256,
        abi_encode(digest, r, s, x, y),
        max_outsize=32,
        is_static_call=True,
        revert_on_failure=False,
    )
    return success and len(answer) == 32 and convert(answer, uint256) == 1


@internal
@pure
def _debug(attributes: Bytes[1]) -> bool:
    return convert(attributes, uint256) & 2 != 0  # ATTRIBUTES.DEBUG, bit 1


@internal
@pure
def _u16(bytes_: Bytes[2]) -> uint256:
    value: uint256 = convert(bytes_, uint256)
    return (value >> 8) | ((value & 255) << 8)  # little-endian
