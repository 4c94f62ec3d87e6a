# pragma version 0.4.3
"""
@title ECDSA P-256 verification with the interface of EIP-7951
@license Apache-2.0 (what it imports, snekmate, is AGPL-3.0)
@notice Stands at address 0x100 of the embedded chain, whose EVM (revm's Python package) has no such precompile: 160 bytes
        digest ‖ r ‖ s ‖ x ‖ y give 32 bytes equal to 1 for a valid signature and nothing otherwise. It answers as the
        precompile does; it does not cost what the precompile costs (6,900 gas).
"""
from snekmate.utils import p256


@external
@payable
@raw_return
def __default__() -> Bytes[32]:
    if len(msg.data) != 160:
        return b""
    input: Bytes[160] = slice(msg.data, 0, 160)
    s: uint256 = extract32(input, 64, output_type=uint256)
    if s >= p256._N:
        return b""
    valid: bool = p256._verify_sig(
        extract32(input, 0, output_type=bytes32),
        extract32(input, 32, output_type=uint256),
        min(s, p256._N - s),  # EIP-7951 takes either half of s, snekmate the lower one
        extract32(input, 96, output_type=uint256),
        extract32(input, 128, output_type=uint256),
    )
    return abi_encode(convert(1, uint256)) if valid else b""
