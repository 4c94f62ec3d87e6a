"""A lowered network as files, and read again inside the device, strictly.

program/description.json   shapes, DRAM layout, authentication blocks, exponents of input and output
program/streams            instructions and micro-ops of every layer, by region number
program/parameters         biases and weights, by region number; or, encrypted under the model's key,
program/parameters.sealed  the same as a stream of `privlib.trusted.storage`, bound to description and streams
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from privlib.errors import PrivlibError
from privlib.ginseng.device.errors import PackageError
from privlib.ginseng.memory.blocks import Blocks, choose
from privlib.ginseng.vta.config import INSTRUCTION_BYTES, VtaConfig
from privlib.ginseng.vta.isa import decode
from privlib.ginseng.vta.network import Conv, MaxPool, Network, SumPool, Window
from privlib.ginseng.vta.program import ALIGNMENT, Kind, LayerProgram, Region, VtaProgram
from privlib.ginseng.vta.uops import decode_uops
from privlib.trusted.binding import encode
from privlib.trusted.storage import DatasetReader, DatasetWriter

FOLDER = "program/"
DESCRIPTION, STREAMS = f"{FOLDER}description.json", f"{FOLDER}streams"
PARAMETERS, SEALED = f"{FOLDER}parameters", f"{FOLDER}parameters.sealed"
MOST_DRAM_BYTES = 1 << 28
MOST_EXPONENT = 100
_FORMAT = 1
_CODE, _MODEL = (Kind.INSTRUCTIONS, Kind.UOPS), (Kind.BIAS, Kind.WEIGHTS)
_LAYERS: dict[str, type[Window]] = {kind.__name__: kind for kind in (Conv, MaxPool, SumPool)}


@dataclass(frozen=True, eq=False)
class Package:
    """What a device runs. partition: authentication blocks by region; constants: contents by region, those of the model
    only where it came in the clear; real input and output = integers / 2**exponent."""

    program: VtaProgram
    partition: Mapping[str, Blocks]
    input_exponent: int
    output_exponent: int
    constants: Mapping[str, bytes]
    context: bytes  # what an encrypted model is bound to
    files: Mapping[str, bytes] = field(repr=False)

    def open_parameters(self, key: bytes) -> dict[str, bytes]:
        """Contents of the model's regions out of the encrypted file. Raises DatasetError for another key or file,
        PackageError."""
        source = io.BytesIO(self.files[SEALED])
        plain = DatasetReader(source, key, self.context, limit=MOST_DRAM_BYTES).read()
        return _cut(_regions(self.program.regions.values(), _MODEL), bytes(plain), SEALED)


def pack(program: VtaProgram, model_key: bytes | None = None) -> dict[str, bytes]:
    """The files of a program that was lowered from a PyTorch model; with a key (32 bytes) its parameters are encrypted.

    Raises PackageError for a program without parameters, DatasetError for another key.
    """
    quantised = program.quantised
    if quantised is None:
        raise PackageError("the program comes from a table of shapes; lower a PyTorch model: its parameters are needed")
    contents = program.image(quantised.parameters)
    partition = choose(program)
    description = {
        "format": _FORMAT,
        "name": program.network.name,
        "config": asdict(program.config),
        "input_shape": program.network.input_shape,
        "layers": [[type(layer.layer).__name__, asdict(layer.layer)] for layer in program.layers],
        "regions": [[r.name, r.kind.value, r.base, r.size] for r in _regions(program.regions.values())],
        "blocks": {name: [blocks.cuts, blocks.numbers] for name, blocks in partition.items()},
        "exponents": [quantised.exponents["input"], quantised.exponents[program.network.output]],
    }
    joined = {
        kinds: b"".join(contents[region.name] for region in _regions(program.regions.values(), kinds))
        for kinds in (_CODE, _MODEL)
    }
    files = {DESCRIPTION: json.dumps(description, sort_keys=True).encode() + b"\n", STREAMS: joined[_CODE]}
    if model_key is None:
        return {**files, PARAMETERS: joined[_MODEL]}
    sealed = io.BytesIO()
    writer = DatasetWriter(sealed, len(joined[_MODEL]), model_key, _context(files))
    writer.write(joined[_MODEL])
    writer.finish()
    return {**files, SEALED: sealed.getvalue()}


def read(files: Mapping[str, bytes]) -> Package:
    """Raises PackageError."""
    if not {DESCRIPTION, STREAMS} <= set(files) or (PARAMETERS in files) == (SEALED in files):
        raise PackageError(f"a package is {DESCRIPTION}, {STREAMS} and parameters, sealed or not; got {sorted(files)}")
    try:
        return _read(files)
    except PackageError:
        raise
    except (PrivlibError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise PackageError(f"the program package is malformed ({error!r}); build the image again") from error


def _read(files: Mapping[str, bytes]) -> Package:
    said = json.loads(files[DESCRIPTION])
    if said["format"] != _FORMAT:
        raise PackageError(f"program package of format {said['format']!r}; this device reads {_FORMAT}")
    layers = tuple(_LAYERS[kind](**values) for kind, values in said["layers"])
    network = Network(str(said["name"]), tuple(map(_natural, said["input_shape"])), layers)  # type: ignore[arg-type]
    regions = {
        str(name): Region(str(name), Kind(kind), _natural(base), _natural(size), number)
        for number, (name, kind, base, size) in enumerate(said["regions"])
    }
    _check_layout(regions, said["regions"], network)
    partition = {
        name: Blocks(tuple(map(_natural, said["blocks"][name][0])), "", tuple(map(_natural, said["blocks"][name][1])))
        for name in regions
    }
    for name, blocks in partition.items():
        _check_blocks(regions[name], blocks)
    constants = _cut(_regions(regions.values(), _CODE), files[STREAMS], STREAMS)
    programs = []
    for layer in layers:
        stream, uops = constants[f"{layer.name}:instructions"], constants[f"{layer.name}:uops"]
        words = [stream[start : start + INSTRUCTION_BYTES] for start in range(0, len(stream), INSTRUCTION_BYTES)]
        instructions = tuple(decode(word) for word in words)
        programs.append(LayerProgram(layer, instructions, decode_uops(uops), (), False, None))
    if PARAMETERS in files:
        constants |= _cut(_regions(regions.values(), _MODEL), files[PARAMETERS], PARAMETERS)
    config = VtaConfig(**{name: _natural(value) for name, value in said["config"].items()})
    entering, leaving = map(_exponent, said["exponents"])
    program = VtaProgram(network, config, tuple(programs), regions)
    return Package(program, partition, entering, leaving, constants, _context(files), dict(files))


def _check_layout(regions: Mapping[str, Region], said: list[object], network: Network) -> None:
    """Every region aligned and behind the one before it; every tensor there."""
    end = 0
    for region in regions.values():
        if region.base % ALIGNMENT or region.base < end or not region.size:
            raise PackageError(
                f"region {region.name!r} at {region.base}, {region.size} bytes, lies in another one's place"
            )
        end = region.end
    if end > MOST_DRAM_BYTES or len(regions) != len(said):
        raise PackageError(f"regions reach to {end} bytes, at most {MOST_DRAM_BYTES}; or two have one name")
    missing = [name for name in network.shapes if name not in regions or regions[name].kind is not Kind.ACTIVATIONS]
    if missing:
        raise PackageError(f"no region for tensor {missing[0]!r}")


def _check_blocks(region: Region, blocks: Blocks) -> None:
    """Cuts from the region's beginning to its end; numbers of all blocks, each once."""
    pairs = zip(blocks.cuts, blocks.cuts[1:], strict=False)
    if blocks.count < 1 or (blocks.cuts[0], blocks.cuts[-1]) != (0, region.size) or any(b <= a for a, b in pairs):
        raise PackageError(f"the authentication blocks of {region.name!r} do not cover its {region.size} bytes")
    if blocks.numbers and sorted(blocks.numbers) != list(range(blocks.count)):
        raise PackageError(
            f"the authentication blocks of {region.name!r} are not numbered once each: a nonce could repeat"
        )


def _regions(regions: Iterable[Region], kinds: Iterable[Kind] = tuple(Kind)) -> list[Region]:
    return sorted((region for region in regions if region.kind in kinds), key=lambda region: region.number)


def _cut(regions: list[Region], data: bytes, name: str) -> dict[str, bytes]:
    size = sum(region.size for region in regions)
    if len(data) != size:
        raise PackageError(f"{name} has {len(data)} bytes, its regions {size}")
    contents, start = {}, 0
    for region in regions:
        contents[region.name] = data[start : start + region.size]
        start += region.size
    return contents


def _context(files: Mapping[str, bytes]) -> bytes:
    digests = [hashlib.sha256(files[name]).digest() for name in (DESCRIPTION, STREAMS)]
    return encode(b"privlib ginseng model v1", digests)


def _natural(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MOST_DRAM_BYTES:
        raise PackageError(f"expected a whole number from 0 to {MOST_DRAM_BYTES}, got {value!r}")
    return value


def _exponent(value: object) -> int:
    if type(value) is not int or abs(value) > MOST_EXPONENT:
        raise PackageError(f"expected an exponent from -{MOST_EXPONENT} to {MOST_EXPONENT}, got {value!r}")
    return value
