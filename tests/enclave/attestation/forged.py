"""Quotes that a dishonest quoting enclave could sign under a simulated root: debug, reserved bits, TDX.

TDX version 4: header, TD report 584, length, signature, attestation key, certification data of type 6 around the QE
report, its signature, authentication data and the PCK chain (Intel, "TDX DCAP Quoting Library API", appendix A.3).
"""

import json
import struct

from privlib.enclave import quote_writer
from privlib.enclave.simulated_root import SimulatedRoot

SEPT_VE_DISABLE = 1 << 28
AUTHENTICATION_DATA = bytes(32)


def qe_report(root: SimulatedRoot, debug: bool = False) -> bytes:
    """The quoting enclave's report that `root` states, or the same in debug mode."""
    identity = json.loads(json.loads(root.collateral())["qe_identity"])
    return quote_writer.report(
        bytes(16),
        bytes(32),
        bytes.fromhex(identity["mrsigner"]),
        identity["isvprodid"],
        identity["tcbLevels"][0]["tcb"]["isvsvn"],
        quote_writer.qe_report_data(root.attestation_key, AUTHENTICATION_DATA),
        debug=debug,
        more_flags=quote_writer.PROVISION_KEY,
    )


def sgx_quote(root: SimulatedRoot, report: bytes, debug_quoting_enclave: bool = False) -> bytes:
    """A version 3 quote over any 384 bytes."""
    qe = qe_report(root, debug_quoting_enclave)
    signature = quote_writer.sign(root.pck.key, qe)
    signed = quote_writer.header(bytes(16), 1, 1) + report
    return quote_writer.quote(signed, root.attestation_key, qe, signature, AUTHENTICATION_DATA, chain(root))


def tdx_quote(root: SimulatedRoot, td_attributes: int, report_data: bytes = bytes(64)) -> bytes:
    """A version 4 quote of a trust domain with these attributes (u64) and MRTD of 48 bytes 0x11."""
    header = struct.pack("<HHIHH", 4, 2, 0x81, 0, 0) + bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + bytes(20)
    body = b"".join([bytes(16), bytes(48), bytes(48), bytes(8), struct.pack("<QQ", td_attributes, 3), b"\x11" * 48,
                     bytes(48 * 3), bytes(48 * 4), report_data])  # fmt: skip
    assert len(body) == 584
    qe = qe_report(root)
    inner = qe + quote_writer.sign(root.pck.key, qe) + struct.pack("<H", 32) + AUTHENTICATION_DATA
    inner += struct.pack("<HI", 5, len(chain(root))) + chain(root)
    data = quote_writer.sign(root.attestation_key, header + body) + quote_writer.public_bytes(root.attestation_key)
    data += struct.pack("<HI", 6, len(inner)) + inner
    return header + body + struct.pack("<I", len(data)) + data


def tdx_collateral(root: SimulatedRoot, now: int) -> str:
    """The simulated collateral, turned into one for trust domains and signed again."""
    collateral = json.loads(root.collateral(now))
    tcb, qe = json.loads(collateral["tcb_info"]), json.loads(collateral["qe_identity"])
    tcb["id"], qe["id"] = "TDX", "TD_QE"
    tcb["tdxModule"] = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    tcb["tcbLevels"][0]["tcb"]["tdxtcbcomponents"] = [{"svn": 0}] * 16
    for name, value in (("tcb_info", tcb), ("qe_identity", qe)):
        collateral[name] = json.dumps(value)
        collateral[f"{name}_signature"] = quote_writer.sign(root.tcb.key, collateral[name].encode()).hex()
    return json.dumps(collateral)


def chain(root: SimulatedRoot) -> bytes:
    return root.pck.pem() + root.ca.pem() + root.root.pem()
