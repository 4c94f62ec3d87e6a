"""Cycles and bytes of a lowered network under a protection mode."""

import json
from collections.abc import Mapping
from pathlib import Path

from privlib.ginseng.errors import ProtectionError
from privlib.ginseng.memory.blocks import Blocks
from privlib.ginseng.memory.dram import DRAM, MemoryTiming
from privlib.ginseng.memory.traffic import MODES, TAG_BUFFER_LINES, traffic_model
from privlib.ginseng.report import CycleReport
from privlib.ginseng.vta.config import PIPELINED, EngineTiming, TecTiming
from privlib.ginseng.vta.program import VtaProgram
from privlib.ginseng.vta.timing import CIPHER_BLOCK, Checking, LayerSimulation

RTL_TIMING = Path(__file__).with_name("rtl") / "timing.json"
"""Written by the RTL's tests: {"latency_cycles": int, "blocks_per_cycle": number}."""

CHECKS = ("before_use", "before_store")


def rtl_timing(path: Path = RTL_TIMING) -> TecTiming:
    """The TEC's timing as its RTL simulation measured it. ProtectionError says how to make the file."""
    if not path.exists():
        raise ProtectionError(f"{path.name} is missing: run the RTL tests, which write it, or pass tec=TecTiming(...)")
    found = json.loads(path.read_text())
    try:
        return TecTiming(int(found["latency_cycles"]), float(found["blocks_per_cycle"]), "RTL simulation")
    except (KeyError, TypeError, ValueError) as error:
        raise ProtectionError(f"{path.name} must hold latency_cycles and blocks_per_cycle: {error}") from error


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

    Raises ProtectionError for an unknown mode or check, or where the cipher's timing is not known.
    """
    if protection not in MODES:
        raise ProtectionError(f"no protection mode called {protection!r}; there are {', '.join(MODES)}")
    if check not in CHECKS:
        raise ProtectionError(f"no check called {check!r}; there are {', '.join(CHECKS)}")
    checking = Checking()
    if protection != "none":
        cipher = tec or rtl_timing()
        # Without tags nothing is verified: only the first key stream can be late, and it starts with the request.
        cycles = max(1, cipher.latency_cycles - memory.read_latency) if protection == "ctr" else cipher.latency_cycles
        checking = Checking(cycles, cipher.blocks_per_cycle * CIPHER_BLOCK, check == "before_store")
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
