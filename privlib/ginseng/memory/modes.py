"""Opening simulated DRAM by the name of its protection mode."""

import secrets
from collections.abc import Mapping

from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory import blocks
from privlib.ginseng.memory.encrypted import CounterDram, ExternalDram, Observer, TaggedDram
from privlib.ginseng.memory.traffic import MGX_BLOCK, MODES
from privlib.ginseng.memory.tree import TreeDram
from privlib.ginseng.vta.program import VtaProgram

KEY_BYTES = 16


def protected_dram(
    mode: str,
    program: VtaProgram,
    *,
    key: bytes | None = None,
    partition: Mapping[str, blocks.Blocks] | None = None,
    observer: Observer | None = None,
) -> ExternalDram:
    """DRAM behind a protection mode, under a fresh key unless one is given. ProtectionError lists the modes there
    are."""
    key = secrets.token_bytes(KEY_BYTES) if key is None else key
    if len(key) != KEY_BYTES:
        raise ProtectionError(f"the key must be {KEY_BYTES} bytes, got {len(key)}")
    if mode == "none":
        return ExternalDram(program, observer)
    if mode == "ctr":
        return CounterDram(program, key, observer)
    if mode == "mee":
        return TreeDram(program, key, observer)
    if mode == "mgx":
        fixed = {name: blocks.uniform(region.size, MGX_BLOCK) for name, region in program.regions.items()}
        return TaggedDram(program, key, fixed, partial_writes=True, observer=observer)
    if mode == "tec":
        return TaggedDram(program, key, partition or blocks.choose(program), partial_writes=False, observer=observer)
    raise ProtectionError(f"no protection mode called {mode!r}; there are {', '.join(MODES)}")
