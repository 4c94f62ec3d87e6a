"""`privlib bench ginseng`: its smoke record, and numbers of others that name their source."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ginseng
from privlib.ginseng import lower, pictures, reported, rtl_area, studies
from privlib.ginseng.errors import LoweringError
from privlib.ginseng.memory.dram import DRAM
from privlib.ginseng.rtl_flow import RtlError
from privlib.ginseng.vta.program import VtaProgram
from privlib.suite import bench
from privlib.suite.tables import by_quantity

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return bench.run(ROOT, "ginseng", "smoke", results=tmp_path_factory.mktemp("results")).data


@pytest.fixture(scope="module")
def metrics(data: dict[str, Any]) -> dict[str, Any]:
    return {metric["name"]: metric for metric in data["metrics"]}


def test_the_smoke_record_is_whole(data: dict[str, Any], metrics: dict[str, Any]) -> None:
    assert data["status"] == "ok", data["reason"]
    assert len(metrics) == len(data["metrics"]) > 100
    assert data["datasets"] and data["notes"]
    assert by_quantity(data["metrics"])


def test_cycles_are_simulated_and_deterministic(metrics: dict[str, Any]) -> None:
    for mode in ("none", "ctr", "mee", "mgx", "tec"):
        for quantity in ("cycles", "bytes_moved"):
            metric = metrics[f"resnet32/{mode}/{quantity}"]
            assert (metric["kind"], metric["class"]) == ("simulated", "deterministic")
    measured = {metric["name"].split("/")[0] for metric in metrics.values() if metric["kind"] == "measured"}
    assert measured == {"resnet32", "obligations", "small_cnn_trained"}, (
        "only times, proofs and accuracies are measured"
    )


def test_the_bars_are_met_and_every_attack_on_the_tec_is_stopped(metrics: dict[str, Any]) -> None:
    assert metrics["resnet32/tec/cycle_overhead"]["value"] <= 100 * ginseng.CYCLES_BAR
    assert metrics["resnet32/tec/traffic_overhead"]["value"] <= 100 * ginseng.TRAFFIC_BAR
    assert metrics["resnet32/tec/bit_exact"]["value"] == 1
    stopped = {name: metric["value"] for name, metric in metrics.items() if name.endswith("/stopped")}
    assert all(value == 1 for name, value in stopped.items() if "/tec/" in name)
    assert all(value == 0 for name, value in stopped.items() if "/none/" in name)
    assert metrics["flip_every_burst/tec/detected"]["value"] == 100
    assert metrics["obligations/monitor/refuted"]["value"] == metrics["obligations/monitor/unknown"]["value"] == 0


def test_a_trained_network_runs_on_the_attested_device_with_the_bits_of_the_unprotected_run(
    metrics: dict[str, Any], data: dict[str, Any]
) -> None:
    sent, exact = (metrics[f"small_cnn_trained/device/{name}"]["value"] for name in ("images", "bit_exact_images"))
    assert sent == exact == 2
    right = [metrics[f"small_cnn_trained/{column}/test_accuracy"]["value"] for column in ("float32", "int8")]
    assert abs(right[0] - right[1]) < 0.1
    assert any("test images" in note for note in data["notes"])
    (row,) = pictures.trained_networks(metrics)
    assert row["same bits as unprotected"] == "2 of 2 images" and row["float32, right"] == f"{right[0]:.1%}"
    assert row["CPU enclave, images/s (measured)"] == "not measured" and row["network"] == "Small CNN"
    free, protected = (metrics[f"small_cnn_trained/{mode}/cycles"]["value"] for mode in ("none", "tec"))
    assert free < protected < 1.02 * free


def test_numbers_of_others_name_their_source(metrics: dict[str, Any]) -> None:
    others = [metric for metric in metrics.values() if metric["kind"] == "reported"]
    assert len(others) >= len(reported.OVERHEADS)
    assert all(metric["source"] for metric in others)


def test_one_core_keeps_up_with_128_bits_and_not_with_512() -> None:
    program = lower("resnet32")
    one, four = studies.width_sweep(program, 1, (128, 512)), studies.width_sweep(program, 4, (512,))
    assert one[0].cycle_overhead < 0.01 < one[1].cycle_overhead
    assert four[0].cycle_overhead < 0.01


def test_a_faster_clock_waits_more_cycles_for_the_same_memory() -> None:
    assert DRAM.at_clock(300).read_latency == 3 * DRAM.read_latency
    slow, fast = (studies.design_point("resnet32", design) for design in studies.DESIGNS[:2])
    assert fast.free.cycles > slow.free.cycles
    assert studies.images_per_second(fast.free, 300) < 3 * studies.images_per_second(slow.free, 100)


@pytest.fixture(scope="module")
def tables_program() -> VtaProgram:
    return lower("tiny")


def test_a_table_of_shapes_has_no_float_model_to_compare_with(tables_program: VtaProgram) -> None:
    with pytest.raises(LoweringError, match="table of shapes"):
        studies.bit_exact_images(tables_program, np.zeros((1, 16, 12, 12), np.float32))


def test_stored_areas_of_other_rtl_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rtl_area.stored()[0].block == "tec"
    monkeypatch.setattr(rtl_area, "rtl_digest", lambda: "another")
    with pytest.raises(RtlError, match="other RTL"):
        rtl_area.stored()
