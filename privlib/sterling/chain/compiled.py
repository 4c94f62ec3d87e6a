"""Vyper source to EVM code. The compiler is pinned, and there is one mode: what is tested is what is shipped."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eth_abi.abi import encode

from privlib.files import atomic_path, cache_dir
from privlib.sterling.chain.errors import ChainError
from privlib.sterling.chain.values import abi_type, plain

VYPER = "0.4.3"
EVM_VERSION = "cancun"
OPTIMISATION = "gas"
_OUTPUTS = ("abi", "bytecode", "bytecode_runtime")


@dataclass(frozen=True)
class ContractCode:
    """A compiled contract. abi: as the compiler gives it; initcode: deployment code without arguments."""

    name: str
    abi: tuple[dict[str, Any], ...] = field(repr=False, hash=False)
    initcode: bytes = field(repr=False)
    runtime: bytes = field(repr=False)

    def creation(self, *arguments: Any) -> bytes:
        """Deployment code with the constructor's arguments."""
        inputs: list[dict[str, Any]] = next(
            (entry["inputs"] for entry in self.abi if entry["type"] == "constructor"), []
        )
        if len(inputs) != len(arguments):
            wanted = ", ".join(each["name"] for each in inputs)
            raise ChainError(f"{self.name} is deployed with ({wanted}); {len(arguments)} arguments were given")
        return self.initcode + encode([abi_type(each) for each in inputs], [plain(each) for each in arguments])


@cache
def compile_vyper(path: Path) -> ContractCode:
    """Compile one file, or take what was compiled of the same sources from privlib's cache.

    Imports are looked for beside the file. Raises ChainError where the compiler is another version, or refuses the
    source.
    """
    if (installed := version("vyper")) != VYPER:
        raise ChainError(
            f"the contracts are for Vyper {VYPER}, installed is {installed}: pip install 'privlib[sterling]'"
        )
    kept = cache_dir("contracts") / f"{path.stem}-{_digest(path)[:32]}.json"
    with suppress(OSError, ValueError):
        return _code(path.stem, json.loads(kept.read_text()))
    made = _compile(path)
    with atomic_path(kept) as temporary:
        temporary.write_text(json.dumps(made))
    return _code(path.stem, made)


def _compile(path: Path) -> dict[str, Any]:
    from vyper.compiler import compile_from_file_input
    from vyper.compiler.input_bundle import FilesystemInputBundle
    from vyper.compiler.settings import OptimizationLevel, Settings
    from vyper.exceptions import VyperException, VyperInternalException

    bundle = FilesystemInputBundle([path.parent])
    settings = Settings(optimize=OptimizationLevel.from_string(OPTIMISATION), evm_version=EVM_VERSION)
    try:
        made = compile_from_file_input(
            bundle.load_file(path.name), input_bundle=bundle, output_formats=list(_OUTPUTS), settings=settings
        )
    except (VyperException, VyperInternalException) as error:
        raise ChainError(f"{path.name} does not compile: {error}") from error
    return {each: made[each] for each in _OUTPUTS}


def _digest(path: Path) -> str:
    """Over what the code depends on: compiler, its mode, and every source beside the file."""
    parts = [VYPER, EVM_VERSION, OPTIMISATION, path.name]
    parts += [f"{each.name}\n{each.read_text()}" for each in sorted(path.parent.glob("*.vy"))]
    return sha256("\0".join(parts).encode()).hexdigest()


def _code(name: str, made: dict[str, Any]) -> ContractCode:
    code, runtime = (bytes.fromhex(made[each].removeprefix("0x")) for each in ("bytecode", "bytecode_runtime"))
    return ContractCode(name, tuple(made["abi"]), code, runtime)
