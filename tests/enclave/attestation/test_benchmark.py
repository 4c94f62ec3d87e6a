"""`privlib bench attestation`: its smoke record."""

from pathlib import Path

from benchmarks import attestation
from privlib.suite import bench

ROOT = Path(__file__).resolve().parents[3]


def test_the_smoke_record_is_whole(tmp_path: Path) -> None:
    data = bench.run(ROOT, "attestation", "smoke", results=tmp_path).data
    assert data["status"] == "ok", data["reason"]
    metrics = {metric["name"]: metric for metric in data["metrics"]}
    assert {name.split("/")[0] for name in metrics} == set(attestation.ROWS)
    assert all(metric["value"] > 0 and metric["class"] == "timing" for metric in metrics.values())
    assert metrics["channel/both_ends/throughput"]["unit"] == "GB/s"
    assert metrics["quote/tdx/verification"]["unit"] == "ms"
    assert data["notes"], "the TLS peer's cipher is named"
