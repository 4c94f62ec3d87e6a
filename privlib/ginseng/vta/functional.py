"""What the accelerator computes, bit for bit: instructions fetched from memory, decoded and executed in NumPy.

Engines run concurrently on the chip, so results must not depend on who is ahead. `run` therefore keeps three queues and
lets a policy choose among the engines whose tokens allow them to go on; any choice must give the same output, and a
test draws choices at random.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from privlib.ginseng.errors import ExecutionError
from privlib.ginseng.vta.config import INSTRUCTION_BYTES, VtaConfig
from privlib.ginseng.vta.execute import Buffers
from privlib.ginseng.vta.isa import Edge, Engine, Instruction, decode
from privlib.ginseng.vta.network import Parameters
from privlib.ginseng.vta.program import Kind, Region, VtaProgram

Policy = Callable[[Sequence[Engine]], Engine]


class DramPort(Protocol):
    """DRAM as the accelerator's port sees it, in plaintext; a protected memory encrypts behind it."""

    def begin(self, region: Region) -> None:
        """A new version of a tensor is about to be written, every byte of it once."""

    def read(self, start: int, end: int) -> bytes:
        """Bytes [start, end)."""

    def write(self, start: int, data: bytes) -> None:
        """Store `data` from `start`."""


def latest_first(ready: Sequence[Engine]) -> Engine:
    """Drain stores, then compute, then load: the fewest values in flight."""
    return max(ready)


def load_constants(program: VtaProgram, parameters: Parameters, memory: DramPort) -> None:
    """Write weights, biases, micro-ops and instructions into memory, once before any number of inferences."""
    for name, content in program.image(parameters).items():
        memory.begin(program.regions[name])
        memory.write(program.regions[name].base, content)


def run(
    program: VtaProgram,
    memory: DramPort,
    image: npt.NDArray[np.int8],
    *,
    policy: Policy = latest_first,
    before_layer: Callable[[str], None] | None = None,
) -> npt.NDArray[np.int8]:
    """One inference on an int8 (C, H, W) image, everything read from and written to `memory`; returns the output
    tensor.

    `before_layer` is called with each layer's name before it starts: the moment for an attack. Raises ExecutionError
    when `image` has another shape or dtype, or when the streams cannot run to their end.
    """
    network = program.network
    if image.shape != network.input_shape or image.dtype != np.int8:
        raise ExecutionError(f"the input must be int8 {network.input_shape}, got {image.dtype} {image.shape}")
    memory.begin(program.regions["input"])
    memory.write(program.regions["input"].base, program.pack(image))
    for layer in program.layers:
        if before_layer is not None:
            before_layer(layer.name)
        memory.begin(program.regions[layer.name])
        stream = program.regions[f"{layer.name}:instructions"]
        launch(fetch(memory, stream), memory, program.config, policy)
    output = program.regions[network.output]
    return program.unpack(memory.read(output.base, output.end), network.shapes[network.output])


def fetch(memory: DramPort, stream: Region) -> list[Instruction]:
    """Read and decode a stream."""
    if stream.kind is not Kind.INSTRUCTIONS:
        raise ExecutionError(f"region {stream.name!r} holds {stream.kind.value}, not instructions")
    raw = memory.read(stream.base, stream.end)
    return [decode(raw[start : start + INSTRUCTION_BYTES]) for start in range(0, len(raw), INSTRUCTION_BYTES)]


def launch(
    instructions: Sequence[Instruction], memory: DramPort, config: VtaConfig, policy: Policy = latest_first
) -> None:
    """Run one stream to its end under its dependence tokens."""
    queues: dict[Engine, deque[Instruction]] = {engine: deque() for engine in Engine}
    for instruction in instructions:
        queues[instruction.engine].append(instruction)
    tokens: Counter[Edge] = Counter()
    buffers = Buffers(config, memory.read, memory.write)
    while any(queues.values()):
        ready = [
            engine for engine in Engine if queues[engine] and all(tokens[edge] > 0 for edge in queues[engine][0].pops)
        ]
        if not ready:
            waiting = ", ".join(f"{engine.name} ({len(queue)} left)" for engine, queue in queues.items() if queue)
            raise ExecutionError(f"engines wait for each other for ever: {waiting}; the dependence bits are wrong")
        instruction = queues[policy(ready)].popleft()
        for edge in instruction.pops:
            tokens[edge] -= 1
        buffers.execute(instruction)
        for edge in instruction.pushes:
            tokens[edge] += 1
