"""VTA's 32-bit micro-ops, encoded and decoded (include/vta/hw_spec.h, VTAUop)."""

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import IsaError


def encode_uops(uops: npt.ArrayLike) -> bytes:
    """Micro-ops (n, 3) of (accumulator 11 bits, source 11 bits, weight 10 bits) as 4 n bytes."""
    table = np.asarray(uops, dtype=np.int64).reshape(-1, 3)
    if table.size and (table.min() < 0 or (table.max(axis=0) >= (2048, 2048, 1024)).any()):
        raise IsaError("a micro-op index is outside 2048 accumulators, 2048 sources, 1024 weights; use a smaller tile")
    return (table[:, 0] | table[:, 1] << 11 | table[:, 2] << 22).astype("<u4").tobytes()


def decode_uops(raw: bytes) -> npt.NDArray[np.int64]:
    """The inverse: (n, 3) of int64. IsaError when the length is no multiple of 4."""
    if len(raw) % 4:
        raise IsaError(f"micro-ops are 4 bytes each, got {len(raw)} bytes")
    words = np.frombuffer(raw, dtype="<u4").astype(np.int64)
    return np.stack([words & 0x7FF, words >> 11 & 0x7FF, words >> 22], axis=1)
