"""The talk's table out of a record: who stands for which column, and what is left out."""

from typing import Any

import matplotlib.pyplot as plt
import pytest

from privlib.suite import talk_table

RATES = {
    "privlib_private_enclave": 200.0, "privlib_private": 210.0, "privlib_plain": 240.0, "pytorch_eager": 90.0,
    "pytorch_channels_last": 100.0, "pytorch_bf16": 300.0, "opacus_hooks": 40.0, "opacus_ghost": 50.0,
}  # fmt: skip


def metrics(rates: dict[str, float], row: str = "vgg9") -> dict[str, Any]:
    interval = {"low": 1.0, "high": 999.0}
    found: dict[str, Any] = {
        f"{row}/{peer}/throughput": {"value": rate, "interval": interval, "kind": "measured"}
        for peer, rate in rates.items()
    }
    found[f"{row}/fastdp_stand_in/throughput"] = {"value": 900.0, "interval": None, "kind": "reported"}
    found[f"{row}/privlib_private/peak_memory"] = {"value": 2**28, "interval": None, "kind": "measured"}
    return found


def test_the_best_peer_stands_for_its_column() -> None:
    cells = talk_table.cells(metrics(RATES), "vgg9")
    assert {column: cell.peer for column, cell in cells.items()} == {
        "private, in the enclave": "privlib_private_enclave",
        "private, outside": "privlib_private",
        "plain, outside": "privlib_plain",
        "PyTorch, fp32": "pytorch_channels_last",
        "PyTorch, bf16": "pytorch_bf16",
        "best DP-SGD peer": "opacus_ghost",
    }
    inside = cells["private, in the enclave"]
    assert (inside.value, inside.low, inside.high, inside.ratio) == (200.0, 1.0, 999.0, 2.0)
    assert cells["private, outside"].memory == 2**28 and inside.memory is None


def test_without_pytorch_there_is_no_row() -> None:
    assert talk_table.cells(metrics({"privlib_private": 1.0}), "vgg9") == {}
    assert talk_table.cells(metrics(RATES), "resnet32") == {}


def test_the_talks_shares() -> None:
    assert talk_table.myelin("vgg9") == pytest.approx(21.3 / 27.2)
    assert talk_table.myelin("resnet32") == pytest.approx(12.4 / 13.6)
    assert talk_table.myelin("mobilenet224") is None


def test_rows_and_figure_of_any_record_and_of_none() -> None:
    for content in (
        metrics(RATES),
        {},
        metrics(RATES) | metrics({"privlib": 3.0, "pytorch_eager": 2.0}, "mobilenet32"),
    ):
        assert [row["row"] for row in talk_table.rows(content)][:2] == ["VGG-9", "ResNet-32"]
        drawing, alt = talk_table.figure(content)
        assert len(alt) >= 20
        assert ("2.00" in alt and "0.78" in alt) == bool(content)
        plt.close(drawing)
