"""Cycles and bytes of a lowered network under a protection mode."""

from collections.abc import Mapping

from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory.blocks import Blocks
from privlib.ginseng.memory.dram import DRAM, MemoryTiming
from privlib.ginseng.memory.traffic import MODES, TAG_BUFFER_LINES, traffic_model
from privlib.ginseng.report import CycleReport
from privlib.ginseng.tec import BLOCK_BYTES, TecTiming, measured_timing
from privlib.ginseng.vta.config import PIPELINED, EngineTiming
from privlib.ginseng.vta.program import VtaProgram
from privlib.ginseng.vta.timing import Checking, LayerSimulation

CHECKS = ("before_use", "before_store")


def simulate(
    program: VtaProgram,
    protection: str = "none",
    *,
    memory: MemoryTiming = DRAM,
    engines: EngineTiming = PIPELINED,
    tec: TecTiming | None = None,
    check: str = "before_use",
    partition: Mapping[str, Blocks] | None = None,
    tag_buffer_lines: int = TAG_BUFFER_LINES,
    trace: bool = False,
) -> CycleReport:
    """One inference, timed; no data is needed.

    protection  "none", "ctr", "mee", "mgx" or "tec" (see `privlib.ginseng.memory.traffic`)
    tec         timing of the cipher, which all modes but "none" use; by default what the RTL simulation measured
    check       "before_use": no instruction reads a tile before its tag is checked; "before_store": no STORE leaves
                before everything that went into it is checked
    partition   authentication blocks by region for "tec"; by default chosen from the program's accesses
    trace       keep every instruction's start and end in the report

    Raises ProtectionError for an unknown mode or check.
    """
    if protection not in MODES:
        raise ProtectionError(f"no protection mode called {protection!r}; there are {', '.join(MODES)}")
    if check not in CHECKS:
        raise ProtectionError(f"no check called {check!r}; there are {', '.join(CHECKS)}")
    checking = Checking()
    if protection != "none":
        cipher = tec or measured_timing()
        # Without tags there is no verdict to wait for. A tag is a beat of its own after the data it belongs to.
        verdict = cipher.latency_cycles if protection == "ctr" else cipher.tag_latency_cycles + 1
        rate = cipher.blocks_per_cycle * BLOCK_BYTES
        checking = Checking(cipher.latency_cycles, verdict, rate, check == "before_store")
    traffic = traffic_model(protection, program, partition=partition, tag_buffer_lines=tag_buffer_lines)
    reports, dying = [], program.last_use()
    for layer in program.layers:
        simulation = LayerSimulation(
            layer,
            program.regions[f"{layer.name}:instructions"],
            program.config,
            engines,
            memory,
            traffic,
            checking,
            trace=trace,
        )
        reports.append(simulation.run(traffic.finish if layer is program.layers[-1] else tuple))
        traffic.release(dying[layer.name])
    return CycleReport(program.network.name, protection, memory.name, tuple(reports))
