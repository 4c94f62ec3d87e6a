"""Vyper source to EVM code. The compiler is pinned, and there is one mode: the one that is tested is the one shipped."""

from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eth_abi.abi import encode

from privlib.sterling.chain.errors import ChainError
from privlib.sterling.chain.values import abi_type, plain

VYPER = "0.4.3"
EVM_VERSION = "cancun"
OPTIMISATION = "gas"


@dataclass(frozen=True)
class ContractCode:
    """A compiled contract. abi: as the compiler gives it; initcode: deployment code without arguments."""

    name: str
    abi: tuple[dict[str, Any], ...] = field(repr=False, hash=False)
    initcode: bytes = field(repr=False)
    runtime: bytes = field(repr=False)

    def creation(self, *arguments: Any) -> bytes:
        """Deployment code with the constructor's arguments."""
        inputs = next((entry["inputs"] for entry in self.abi if entry["type"] == "constructor"), [])
        if len(inputs) != len(arguments):
            wanted = ", ".join(each["name"] for each in inputs)
            raise ChainError(f"{self.name} is deployed with ({wanted}); {len(arguments)} arguments were given")
        return self.initcode + encode([abi_type(each) for each in inputs], [plain(each) for each in arguments])


@cache
def compile_vyper(path: Path) -> ContractCode:
    """Compile one file; imports are looked for beside it and in the installed packages (snekmate).

    Raises ChainError where the compiler is another version, or refuses the source.
    """
    import vyper
    from vyper.compiler import compile_from_file_input
    from vyper.compiler.input_bundle import FilesystemInputBundle
    from vyper.compiler.settings import OptimizationLevel, Settings
    from vyper.exceptions import VyperException

    if vyper.__version__.partition("+")[0] != VYPER:
        raise ChainError(f"the contracts are for Vyper {VYPER}, installed is {vyper.__version__}: pip install .[sterling]")
    snekmate = find_spec("snekmate")
    assert snekmate is not None and snekmate.submodule_search_locations is not None
    packages = Path(next(iter(snekmate.submodule_search_locations))).parent
    bundle = FilesystemInputBundle([packages, path.parent])
    settings = Settings(optimize=OptimizationLevel.from_string(OPTIMISATION), evm_version=EVM_VERSION)
    try:
        made = compile_from_file_input(
            bundle.load_file(path.name),
            input_bundle=bundle,
            output_formats=["abi", "bytecode", "bytecode_runtime"],
            settings=settings,
        )
    except VyperException as error:
        raise ChainError(f"{path.name} does not compile: {error}") from error
    code, runtime = (bytes.fromhex(made[each].removeprefix("0x")) for each in ("bytecode", "bytecode_runtime"))
    return ContractCode(path.stem, tuple(made["abi"]), code, runtime)
