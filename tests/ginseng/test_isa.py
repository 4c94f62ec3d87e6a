"""Encoding against the published bit positions, round trips, and hostile bits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privlib.ginseng.errors import IsaError
from privlib.ginseng.vta import isa, uops


def test_load_fields_sit_where_hw_spec_puts_them() -> None:
    raw = isa.Load(
        pop_next=True,
        push_next=True,
        memory=isa.Memory.INP,
        sram_base=0x1234,
        dram_base=0x89ABCDEF,
        y_size=3,
        x_size=5,
        x_stride=7,
        y_pad_0=1,
        y_pad_1=2,
        x_pad_0=3,
        x_pad_1=4,
    ).encode()
    words = int.from_bytes(raw, "little")
    assert words & 7 == 0
    assert (words >> 3 & 1, words >> 4 & 1, words >> 5 & 1, words >> 6 & 1) == (0, 1, 0, 1)
    assert words >> 7 & 7 == 2
    assert words >> 10 & 0xFFFF == 0x1234
    assert words >> 26 & 0xFFFFFFFF == 0x89ABCDEF
    assert words >> 58 & 0x3F == 0
    second = words >> 64
    assert [second >> shift & 0xFFFF for shift in (0, 16, 32)] == [3, 5, 7]
    assert [second >> shift & 0xF for shift in (48, 52, 56, 60)] == [1, 2, 3, 4]


def test_gemm_and_alu_fields_sit_where_hw_spec_puts_them() -> None:
    words = int.from_bytes(
        isa.Gemm(
            reset=True,
            uop_begin=0x1555,
            uop_end=0x2AAA,
            iter_out=0x3001,
            iter_in=9,
            dst_factor_out=1,
            dst_factor_in=2,
            src_factor_out=3,
            src_factor_in=4,
            wgt_factor_out=5,
            wgt_factor_in=6,
        ).encode(),
        "little",
    )
    assert words & 7 == 2 and words >> 7 & 1 == 1
    assert (words >> 8 & 0x1FFF, words >> 21 & 0x3FFF, words >> 35 & 0x3FFF, words >> 49 & 0x3FFF) == (
        0x1555,
        0x2AAA,
        0x3001,
        9,
    )
    second = words >> 64
    assert [second >> s & m for s, m in ((0, 2047), (11, 2047), (22, 2047), (33, 2047), (44, 1023), (54, 1023))] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    alu = int.from_bytes(isa.Alu(op=isa.AluOp.SHR, use_immediate=True, immediate=-2).encode(), "little") >> 64
    assert alu >> 44 & 7 == 3 and alu >> 47 & 1 == 1 and alu >> 48 & 0xFFFF == 0xFFFE


def _instructions() -> st.SearchStrategy[isa.Instruction]:
    def build(kind: type[isa.Instruction]) -> st.SearchStrategy[isa.Instruction]:
        widths = dict(kind._FIRST + kind._SECOND)
        values: dict[str, st.SearchStrategy[object]] = {}
        for item in dataclasses.fields(kind):
            if item.name not in widths or item.name == "reset" or item.name == "use_immediate":
                values[item.name] = st.booleans()
            elif item.name == "memory":
                values[item.name] = st.sampled_from(isa.Memory)
            elif item.name == "op":
                values[item.name] = st.sampled_from(isa.AluOp)
            elif item.name == "immediate":
                values[item.name] = st.integers(-(1 << 15), (1 << 15) - 1)
            else:
                values[item.name] = st.integers(0, (1 << widths[item.name]) - 1)
        return st.builds(kind, **values)

    return st.one_of(*(build(kind) for kind in (isa.Load, isa.Store, isa.Gemm, isa.Alu, isa.Finish)))


@given(_instructions())
def test_every_instruction_survives_a_round_trip(instruction: isa.Instruction) -> None:
    assert isa.decode(instruction.encode()) == instruction


@given(st.binary(min_size=16, max_size=16))
def test_any_sixteen_bytes_decode_to_themselves_or_are_refused(raw: bytes) -> None:
    try:
        instruction = isa.decode(raw)
    except IsaError:
        return
    assert instruction.encode() == raw


def test_a_value_too_wide_for_its_field_names_the_field() -> None:
    with pytest.raises(IsaError, match="Gemm.iter_in = 16384"):
        isa.Gemm(iter_in=1 << 14).encode()


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(IsaError, match="16 bytes"):
        isa.decode(b"\0" * 15)
    with pytest.raises(IsaError, match="4 bytes"):
        uops.decode_uops(b"\0" * 6)


def test_uops_round_trip_and_refuse_what_they_cannot_hold() -> None:
    table = np.array([[2047, 0, 1023], [0, 2047, 0], [5, 6, 7]])
    assert (uops.decode_uops(uops.encode_uops(table)) == table).all()
    with pytest.raises(IsaError, match="smaller tile"):
        uops.encode_uops([[2048, 0, 0]])
