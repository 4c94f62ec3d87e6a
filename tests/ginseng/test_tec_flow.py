"""Lint, timing and area of the RTL: the committed numbers are this design's."""

from __future__ import annotations

import json

import pytest

from privlib.ginseng import rtl_area, rtl_flow
from privlib.ginseng.tec import measured_timing


def test_lint_is_clean() -> None:
    assert "Warning" not in rtl_flow.lint()


def test_lint_complains_when_there_is_something_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [path for path in rtl_flow.sources() if path.name != "ghash.sv"]
    monkeypatch.setattr(rtl_flow, "sources", lambda: kept)
    with pytest.raises(rtl_flow.RtlError, match="ghash"):
        rtl_flow.lint()


def test_committed_timing_is_what_the_rtl_does() -> None:
    assert rtl_flow.measure_timing() == measured_timing()


def test_committed_area_is_of_this_rtl_and_below_the_open_core() -> None:
    record = json.loads(rtl_area.AREA_FILE.read_text())
    assert record["rtl_sha256"] == rtl_area.rtl_digest(), "run `python -m privlib.ginseng.rtl_flow area`"
    core = next(block for block in record["blocks"] if block["block"] == "tec")
    assert core["lut"] == core["logic_lut"] + core["memory_lut"] + core["shift_lut"]
    assert core["lut"] < rtl_area.OPEN_CORE["lut"]
    assert core["ff"] < rtl_area.OPEN_CORE["ff"]


@pytest.mark.parametrize("block", ["aes_sbox", pytest.param("key_expander", marks=pytest.mark.soak)])
def test_synthesis_of_a_block_agrees_with_the_committed_table(block: str) -> None:
    record = json.loads(rtl_area.AREA_FILE.read_text())
    committed = {each["block"]: each["lut"] for each in record["blocks"]}
    areas = {area.block: area for area in rtl_area.synthesise(block)}
    assert areas["aes_sbox"].lut == committed["aes_sbox"] == 32
    assert areas[block].lut == committed[block]


def test_unknown_cells_are_not_counted_as_nothing() -> None:
    with pytest.raises(rtl_flow.RtlError, match="DSP48E1"):
        rtl_area.count("tec", {"LUT6": 3, "DSP48E1": 1})
    with pytest.raises(rtl_flow.RtlError, match="RAM128X1S"):
        rtl_area.count("tec", {"RAM128X1S": 1})
