"""Reads DCAP quotes field by field: SGX version 3 and TDX version 4 (TD report 1.0), ECDSA P-256.

Source: Intel, "SGX ECDSA Quote Library Reference: DCAP API" (appendix A.4, quote format) and "TDX DCAP Quoting Library
API" (appendix A.3, quote format version 4). All integers are little-endian. Offsets are written down from those tables
and nothing here is shared with what makes simulated quotes, so that a mistake of one does not hide in the other.

     0  header 48: version u16, attestation key type u16, TEE type u32, QE SVN u16, PCE SVN u16, QE vendor 16, user 20
    48  body: SGX report 384, or TD report 584
        signature data: length u32, then
          signature 64 (r ‖ s), attestation key 64 (x ‖ y)
          version 4 only: certification data type u16 = 6, length u32, around what follows
          QE report 384, QE report signature 64, authentication data (length u16), certification data
          (type u16 = 5: PEM chain of the PCK certificate; length u32)

Reading is strict: every length must fit exactly. Zero bytes after the quote are accepted and counted (hosts hand quotes
over in padded buffers), for SGX and TDX alike; any other byte there is refused.
"""

from dataclasses import dataclass

from privlib.enclave.refusals import QuoteFormatError

MAXIMUM_BYTES = 1 << 16
HEADER_BYTES, SGX_REPORT_BYTES, TD_REPORT_BYTES = 48, 384, 584
SGX, TDX = 0x00, 0x81
ECDSA_P256 = 2
_QE_REPORT_CERTIFICATION, _PCK_CHAIN = 6, 5
_SGX_DEBUG, _TD_DEBUG = 0x02, 0x01


@dataclass(frozen=True)
class Header:
    """First 48 bytes."""

    version: int
    attestation_key_type: int
    tee_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes  # 16
    user_data: bytes  # 20


@dataclass(frozen=True)
class SgxReport:
    """Report body of an SGX enclave, 384 bytes (fields that the format reserves are not kept)."""

    cpu_svn: bytes  # 16
    misc_select: int
    attributes: bytes  # 16: flags 8, XFRM 8
    mr_enclave: bytes  # 32
    mr_signer: bytes  # 32
    isv_prod_id: int
    isv_svn: int
    report_data: bytes  # 64

    @property
    def debug(self) -> bool:
        """ATTRIBUTES.DEBUG: the host may read and write the enclave's memory."""
        return bool(self.attributes[0] & _SGX_DEBUG)


@dataclass(frozen=True)
class TdReport:
    """Report body of a TDX trust domain (TD report 1.0), 584 bytes."""

    tee_tcb_svn: bytes  # 16
    mr_seam: bytes  # 48
    mr_signer_seam: bytes  # 48
    seam_attributes: bytes  # 8
    td_attributes: bytes  # 8
    xfam: bytes  # 8
    mr_td: bytes  # 48
    mr_config_id: bytes  # 48
    mr_owner: bytes  # 48
    mr_owner_config: bytes  # 48
    rtmr: tuple[bytes, bytes, bytes, bytes]  # 48 each
    report_data: bytes  # 64

    @property
    def debug(self) -> bool:
        """TUD.DEBUG, bit 0 of the TD attributes."""
        return bool(self.td_attributes[0] & _TD_DEBUG)

    @property
    def untrusted_bits(self) -> int:
        """Bits 7:1 of the TD attributes: reserved, and any of them makes the domain untrusted."""
        return self.td_attributes[0] & ~_TD_DEBUG


@dataclass(frozen=True)
class Quote:
    """A quote, read but not verified: nothing in it may be believed yet."""

    header: Header
    report: SgxReport | TdReport
    signed: bytes  # header and body: what `signature` covers
    signature: bytes  # 64, r ‖ s
    attestation_key: bytes  # 64, x ‖ y
    qe_report: SgxReport
    qe_report_bytes: bytes  # 384: what `qe_report_signature` covers
    qe_report_signature: bytes  # 64
    authentication_data: bytes
    certification_chain: bytes  # PEM, the PCK certificate first
    trailing_zeros: int


def parse_quote(data: bytes | bytearray | memoryview) -> Quote:
    """Read a quote.

    Raises:
        QuoteFormatError: cut off, a length that does not fit, an unknown version or type; the field is named.
    """
    data = bytes(data)
    if len(data) > MAXIMUM_BYTES:
        raise QuoteFormatError(f"quote: {len(data)} bytes, no quote is longer than {MAXIMUM_BYTES}")
    header = _header(data)
    body_bytes = SGX_REPORT_BYTES if header.tee_type == SGX else TD_REPORT_BYTES
    body = _take(data, HEADER_BYTES, body_bytes, "report body")
    report = _sgx_report(body) if header.tee_type == SGX else _td_report(body)
    start = HEADER_BYTES + body_bytes
    length = _integer(data, start, 4, "length of the signature data")
    section = _take(data, start + 4, length, "signature data")
    tail = data[start + 4 + length :]
    if tail.strip(b"\0"):
        raise QuoteFormatError(f"trailing bytes: {len(tail)} after the quote, and not all are zero")

    inner, at = section, 128
    if header.version == 4:
        _type(section, 128, _QE_REPORT_CERTIFICATION, "certification data")
        size = _integer(section, 130, 4, "length of the certification data")
        _ends(section, 134 + size, "certification data")
        inner, at = section[134:], 0
    qe_report = _take(inner, at, SGX_REPORT_BYTES, "QE report")
    at += SGX_REPORT_BYTES
    qe_report_signature = _take(inner, at, 64, "QE report signature")
    at += 64
    size = _integer(inner, at, 2, "length of the authentication data")
    authentication = _take(inner, at + 2, size, "authentication data")
    at += 2 + size
    _type(inner, at, _PCK_CHAIN, "PCK certification data")
    size = _integer(inner, at + 2, 4, "length of the PCK certification data")
    chain = _take(inner, at + 6, size, "PCK certification data")
    _ends(inner, at + 6 + size, "signature data")
    return Quote(
        header=header,
        report=report,
        signed=data[:start],
        signature=_take(section, 0, 64, "signature"),
        attestation_key=_take(section, 64, 64, "attestation key"),
        qe_report=_sgx_report(qe_report),
        qe_report_bytes=qe_report,
        qe_report_signature=qe_report_signature,
        authentication_data=authentication,
        certification_chain=chain,
        trailing_zeros=len(tail),
    )


def _header(data: bytes) -> Header:
    _take(data, 0, HEADER_BYTES, "header")
    header = Header(
        version=_integer(data, 0, 2, "version"),
        attestation_key_type=_integer(data, 2, 2, "attestation key type"),
        tee_type=_integer(data, 4, 4, "TEE type"),
        qe_svn=_integer(data, 8, 2, "QE SVN"),
        pce_svn=_integer(data, 10, 2, "PCE SVN"),
        qe_vendor_id=data[12:28],
        user_data=data[28:48],
    )
    if (header.version, header.tee_type) not in ((3, SGX), (4, TDX)):
        raise QuoteFormatError(
            f"version and TEE type: {header.version} and {header.tee_type:#x}; "
            "SGX quotes of version 3 and TDX quotes of version 4 are read"
        )
    if header.attestation_key_type != ECDSA_P256:
        raise QuoteFormatError(f"attestation key type: {header.attestation_key_type}, expected 2 (ECDSA P-256)")
    return header


def _sgx_report(body: bytes) -> SgxReport:
    return SgxReport(
        cpu_svn=body[0:16],
        misc_select=int.from_bytes(body[16:20], "little"),
        attributes=body[48:64],
        mr_enclave=body[64:96],
        mr_signer=body[128:160],
        isv_prod_id=int.from_bytes(body[256:258], "little"),
        isv_svn=int.from_bytes(body[258:260], "little"),
        report_data=body[320:384],
    )


def _td_report(body: bytes) -> TdReport:
    return TdReport(
        tee_tcb_svn=body[0:16],
        mr_seam=body[16:64],
        mr_signer_seam=body[64:112],
        seam_attributes=body[112:120],
        td_attributes=body[120:128],
        xfam=body[128:136],
        mr_td=body[136:184],
        mr_config_id=body[184:232],
        mr_owner=body[232:280],
        mr_owner_config=body[280:328],
        rtmr=(body[328:376], body[376:424], body[424:472], body[472:520]),
        report_data=body[520:584],
    )


def _take(data: bytes, offset: int, size: int, field: str) -> bytes:
    """Exactly `size` bytes at `offset`: a slice alone would be shortened without a word."""
    if offset + size > len(data):
        raise QuoteFormatError(f"{field}: needs {size} bytes at {offset}, {max(0, len(data) - offset)} are there")
    return data[offset : offset + size]


def _integer(data: bytes, offset: int, size: int, field: str) -> int:
    return int.from_bytes(_take(data, offset, size, field), "little")


def _type(data: bytes, offset: int, expected: int, field: str) -> None:
    found = _integer(data, offset, 2, f"type of the {field}")
    if found != expected:
        raise QuoteFormatError(f"type of the {field}: {found}, expected {expected}")


def _ends(data: bytes, end: int, field: str) -> None:
    if end != len(data):
        raise QuoteFormatError(f"{field}: ends at {end}, its container at {len(data)}")
