"""The parser reads what dcap-qvl reads, names the field where a quote is wrong, and accepts zeros after it."""

import struct

import dcap_qvl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.enclave.quote import MAXIMUM_BYTES, Quote, SgxReport, TdReport, parse_quote
from privlib.enclave.refusals import QuoteFormatError
from privlib.enclave.simulated_root import SimulatedRoot
from tests.enclave.attestation import forged
from tests.enclave.attestation.conftest import MEASUREMENT, REPORT_DATA, SIGNER, VECTORS, Evidence

QUOTES = ("sgx", "tdx", "simulated")
SGX_LENGTHS = {"signature data": (432, 4), "authentication data": (436 + 576, 2), "PCK certification data": (1048, 4)}
TDX_LENGTHS = {
    "signature data": (632, 4),
    "certification data": (636 + 130, 4),
    "authentication data": (636 + 134 + 448, 2),
    "PCK certification data": (636 + 134 + 448 + 2 + 32 + 2, 4),
}


@pytest.fixture(params=QUOTES)
def evidence(request: pytest.FixtureRequest) -> Evidence:
    found: Evidence = request.getfixturevalue(request.param)
    return found


def test_every_field_is_what_dcap_qvl_reads(evidence: Evidence) -> None:
    ours, theirs = parse_quote(evidence.quote), dcap_qvl.parse_quote(evidence.quote)
    for name, value in vars(ours.header).items():
        assert getattr(theirs.header, name) == value, name
    names = ["mr_enclave", "mr_signer", "cpu_svn", "attributes", "report_data"]
    if isinstance(ours.report, TdReport):
        names = [name for name in vars(ours.report) if name != "rtmr"]
        assert ours.report.rtmr == tuple(getattr(theirs.report, f"rt_mr{i}") for i in range(4))
    for name in names:
        assert getattr(theirs.report, name) == getattr(ours.report, name), name
    assert ours.certification_chain.rstrip(b"\0") == bytes(theirs.cert_chain_pem_bytes()).rstrip(b"\0")


def test_the_real_quotes_say_what_is_known_of_them(sgx: Evidence, tdx: Evidence) -> None:
    first, second = parse_quote(sgx.quote), parse_quote(tdx.quote)
    assert isinstance(first.report, SgxReport) and isinstance(second.report, TdReport)
    assert first.report.report_data == b"Hello, world!".ljust(64, b"\0")
    assert first.report.mr_enclave.hex().startswith("33d8736db756ed49")
    assert second.report.mr_td.hex().startswith("91eb2b44d141d4ec")
    assert (first.trailing_zeros, second.trailing_zeros) == (0, 70)
    assert not first.report.debug and not second.report.debug and not second.report.untrusted_bits


def test_the_simulated_quote_read_from_the_format_s_tables_by_hand(simulated_root: SimulatedRoot) -> None:
    """Offsets are absolute and from anchors; neither the writer nor the parser has part in this reading."""
    quote = simulated_root.quote(MEASUREMENT, SIGNER, 0x1234, 0x0203, True, REPORT_DATA)
    assert quote[:8] == bytes.fromhex("0300 0200 0000 0000")
    assert quote[48 + 48] == 0b111  # INIT, DEBUG, MODE64BIT
    assert quote[48 + 64 : 48 + 96] == MEASUREMENT
    assert quote[48 + 128 : 48 + 160] == SIGNER
    assert quote[48 + 256 : 48 + 260] == bytes.fromhex("3412 0302")
    assert quote[48 + 320 : 432] == REPORT_DATA
    assert int.from_bytes(quote[432:436], "little") == len(quote) - 436
    assert quote[1012:1014] == bytes.fromhex("2000")
    assert quote[1046:1048] == bytes.fromhex("0500")
    assert quote[1052:].startswith(b"-----BEGIN CERTIFICATE-----")
    assert quote[564 + 320 + 32 : 564 + 384] == bytes(32)
    read = parse_quote(quote).report
    assert isinstance(read, SgxReport)
    assert (read.isv_prod_id, read.isv_svn, read.debug) == (0x1234, 0x0203, True)


def test_a_quote_cut_at_any_byte_is_refused(evidence: Evidence) -> None:
    whole = parse_quote(evidence.quote)
    end = len(evidence.quote) - whole.trailing_zeros
    for length in range(end):
        with pytest.raises(QuoteFormatError, match=":"):
            parse_quote(evidence.quote[:length])
    for length in range(end, len(evidence.quote)):
        assert parse_quote(evidence.quote[:length]).signed == whole.signed


@pytest.mark.parametrize("change", ["one more", "all ones", "one less", "zero"])
@pytest.mark.parametrize(
    ("name", "field"), [*(("sgx", field) for field in SGX_LENGTHS), *(("tdx", field) for field in TDX_LENGTHS)]
)
def test_a_length_that_lies_is_refused_and_a_field_named(
    name: str, field: str, change: str, request: pytest.FixtureRequest
) -> None:
    offset, size = (SGX_LENGTHS if name == "sgx" else TDX_LENGTHS)[field]
    quote = bytearray(request.getfixturevalue(name).quote)
    value = int.from_bytes(quote[offset : offset + size], "little")
    changed = {"one more": value + 1, "one less": value - 1, "all ones": (1 << 8 * size) - 1, "zero": 0}[change]
    quote[offset : offset + size] = changed.to_bytes(size, "little")
    with pytest.raises(QuoteFormatError, match="data|signature|key|report|trailing"):
        parse_quote(quote)


def test_zeros_after_a_quote_are_accepted_and_counted_for_sgx_and_tdx_alike(evidence: Evidence) -> None:
    before = parse_quote(evidence.quote)
    after = parse_quote(evidence.quote + bytes(4))
    assert after.trailing_zeros == before.trailing_zeros + 4
    assert after.signed == before.signed


def test_other_bytes_after_a_quote_are_refused(evidence: Evidence) -> None:
    with pytest.raises(QuoteFormatError, match="trailing bytes"):
        parse_quote(evidence.quote + b"\0\0\1\0")


@pytest.mark.parametrize(
    ("offset", "value", "field"),
    [(0, 2, "version"), (0, 5, "version"), (2, 3, "attestation key type"), (4, 0x81, "TEE type"), (4, 7, "TEE type")],
)
def test_unknown_versions_and_types_are_refused_by_name(sgx: Evidence, offset: int, value: int, field: str) -> None:
    quote = bytearray(sgx.quote)
    struct.pack_into("<H", quote, offset, value)
    with pytest.raises(QuoteFormatError, match=field):
        parse_quote(quote)


@pytest.mark.parametrize("kind", [0, 1, 3, 4, 6, 7])
def test_other_certification_data_than_a_chain_is_refused(sgx: Evidence, kind: int) -> None:
    quote = bytearray(sgx.quote)
    struct.pack_into("<H", quote, 1046, kind)
    with pytest.raises(QuoteFormatError, match=f"type of the PCK certification data: {kind}"):
        parse_quote(quote)


def test_more_than_a_quote_can_hold_is_refused_unread() -> None:
    with pytest.raises(QuoteFormatError, match="no quote is longer"):
        parse_quote(bytes(MAXIMUM_BYTES + 1))


def test_a_quote_of_a_debug_domain_says_so(simulated_root: SimulatedRoot) -> None:
    report = parse_quote(forged.tdx_quote(simulated_root, forged.SEPT_VE_DISABLE | 0x05)).report
    assert isinstance(report, TdReport)
    assert report.debug
    assert report.untrusted_bits == 0x04


REAL = {name: (VECTORS / f"{name}_quote").read_bytes() for name in ("sgx", "tdx")}


@st.composite
def hostile_quotes(draw: st.DrawFn) -> bytes:
    """Noise, or a real quote with pieces overwritten, cut out, doubled or appended."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=2000))
    quote = bytearray(REAL[draw(st.sampled_from(sorted(REAL)))])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(quote)))
        piece = draw(st.binary(max_size=8))
        end = at + draw(st.sampled_from((0, len(piece), 1, 2, 400)))
        quote[at:end] = piece
    return bytes(quote)


def read_or_refuse(data: bytes) -> None:
    try:
        quote = parse_quote(data)
    except QuoteFormatError:
        return
    assert isinstance(quote, Quote)
    assert len(quote.signed) in (432, 632)
    assert len(data) == (
        len(quote.signed) + 4 + 64 + 64 + (6 if quote.header.version == 4 else 0) + 384 + 64 + 2
        + len(quote.authentication_data) + 6 + len(quote.certification_chain) + quote.trailing_zeros
    )  # fmt: skip


@given(hostile_quotes())
@settings(max_examples=300, deadline=None)
def test_hostile_bytes_are_read_whole_or_refused(data: bytes) -> None:
    read_or_refuse(data)


@pytest.mark.soak
@given(hostile_quotes())
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_quotes_are_read_whole_or_refused(data: bytes) -> None:
    read_or_refuse(data)
