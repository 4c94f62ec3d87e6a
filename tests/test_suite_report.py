"""The report and the notebook pages: what they say, what they compare, and how they lay out on a desk and a phone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from privlib.suite import claims, notebooks, pages, record, records, report, runner, tables
from privlib.suite.errors import ProjectError
from privlib.suite.progress import Progress
from privlib.suite.records import Run, Subject
from tests.browser import layout
from tests.suite_project import write_notebook

ROOT = Path(__file__).resolve().parents[1]

FIGURE = """
from privlib.suite import plots, record
figure, axes = plots.figure()
plots.grouped_bars(axes, ["VGG-9", "ResNet-32"], {"privlib": [400, 900], "pytorch": [200, 500]}, "images per second")
record.figure(figure, "bars", alt="Bar chart: privlib 400 and 900 images per second, PyTorch 200 and 500.")
record.metric("mobilenet224/privlib/throughput", 88.0, "images/s", nature="timing", higher_is_better=True)
"""
WIDE = """
import pandas as pd
print("x" * 400)
pd.DataFrame({f"a_long_column_name_{i}": [i] for i in range(30)})
"""


def _benchmark(root: Path, name: str, throughputs: dict[str, float], status: str = "ok") -> Run:
    subject = Subject(name, "benchmark", "1", "quick", {}, ["privlib", "bench", name])
    with records.staging(root / "results", root, subject) as staged, pytest.MonkeyPatch.context() as patch:
        patch.setenv(record.RUN_FOLDER, str(staged.folder))
        for metric, value in throughputs.items():
            record.samples(metric, [value * (1 + i / 100) for i in range(-4, 5)], "images/s", higher_is_better=True)
        record.note("pytorch_bf16 is left out: this processor has no bf16 instructions.")
        return staged.commit(status, None if status == "ok" else "peer onnxruntime ended with code -9")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a good, a failing and a wide notebook and two benchmarks, all run, and its report."""
    root = tmp_path_factory.mktemp("project")
    write_notebook(root, "02_enclave_ml", [FIGURE], 'profile = "quick"')
    write_notebook(root, "03_wide", [WIDE])
    write_notebook(root, "04_bad", ["raise ValueError('a reason ' + 'that is long ' * 20)"])
    runner.run(runner.Request(root, jobs=2), Progress())
    peers = ("privlib", "onnxruntime", "pytorch_channels_last", "pytorch_compile", "pytorch_eager")
    _benchmark(root, "inference", {f"vgg9_batch64/{peer}/throughput": 500.0 - 50 * i for i, peer in enumerate(peers)})
    _benchmark(root, "fusion", {}, "failed")
    _benchmark(root, "cifar10", {"mobilenet224/privlib_enclave/throughput": 91.0})
    report.build(root / "results", root)
    return root


def test_says_what_ran_and_what_failed_with_its_reason(root: Path) -> None:
    page = (root / "results" / "report" / "index.html").read_text(encoding="utf-8")
    assert "Title of 02_enclave_ml" in page
    assert "ValueError: a reason" in page
    assert "peer onnxruntime ended with code -9" in page
    assert "no bf16 instructions" in page
    assert "Traceback" not in page
    markdown = (root / "results" / "report" / "report.md").read_text(encoding="utf-8")
    assert "| Title of 03_wide (`03_wide`) | ok |" in markdown
    assert "**500** (" in markdown
    for line in markdown.splitlines():
        if line.startswith("!["):
            assert (root / "results" / "report" / line[line.index("(") + 1 : -1]).is_file()


def test_the_talks_numbers_stand_beside_ours_with_their_source(root: Path) -> None:
    rows = {row["name"]: row for row in report.talk_numbers(records.find(root / "results"))}
    ours = rows["mobilenet/myelin/inference_throughput"]["ours"]
    assert ours["metric"]["value"] == 91.0  # in the enclave, and not the 88 that 02_enclave_ml measured outside
    assert ours["benchmark"] == "cifar10"
    assert rows["vgg9/myelin_private/training_throughput"]["ours"] is None
    page = (root / "results" / "report" / "index.html").read_text(encoding="utf-8")
    assert page.count("arXiv 1807.06689") >= 5
    assert "91 images/s" in page


def test_every_claim_of_the_talk_has_its_notebook_or_says_that_it_is_not_built(root: Path) -> None:
    rows = claims.claim_rows(root, records.find(root / "results"))
    assert len(rows) == len(claims.claims()) >= 15
    page = (root / "results" / "report" / "report.md").read_text(encoding="utf-8")
    for row in rows:
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {row['claim']} |")]
        assert ("not built yet" in line) == (row["notebook"] is None)
        assert all(each["text"] in line and each["kind"] in line for each in row["numbers"])
    enclave = next(row for row in rows if row["claim"].startswith("Step 4"))
    assert enclave["numbers"] == [
        {"label": "MobileNet at 224 pixels, in the enclave", "text": "91 images/s", "kind": "measured",
         "benchmark": "cifar10"}
    ]  # fmt: skip


def test_claims_name_notebooks_and_metrics_that_exist() -> None:
    """Where our own notebooks and records stand: a renamed metric would leave a claim without its number."""
    built = {notebook.name for notebook in notebooks.find(ROOT, [])}
    recorded = {(run.data["benchmark"], name) for run in records.find(ROOT / "results") for name in run.metrics()}
    benchmarks = {benchmark for benchmark, _ in recorded}
    for claim in claims.claims():
        assert claim["notebook"] in built or not claim["numbers"], claim["notebook"]
        for benchmark, metric, label in claim["numbers"]:
            assert label and ((benchmark, metric) in recorded or benchmark not in benchmarks), (benchmark, metric)


def test_reported_numbers_name_sources_and_are_those_of_the_talk() -> None:
    numbers = {row["name"]: row for row in report.reported_numbers()}
    assert all(row["source"] and row["unit"] == "images/s" for row in numbers.values())
    values = {name: row["value"] for name, row in numbers.items()}
    assert values == {
        "vgg9/myelin_private/training_throughput": 21.3,
        "vgg9/cpu_non_private/training_throughput": 27.2,
        "vgg9/chiron/training_throughput": 24.7,
        "resnet32/myelin_private/training_throughput": 12.4,
        "resnet32/cpu_non_private/training_throughput": 13.6,
        "mobilenet/myelin/inference_throughput": 32.4,
        "mobilenet/slalom/inference_throughput": 35.7,
    }


def test_numbers_of_another_system_are_named_and_never_shown(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "results", tmp_path / "results")
    results = tmp_path / "results"
    (own,) = (results / "runs" / "inference").iterdir()
    other = own.with_name("other-machine-64t-00000000")
    shutil.copytree(own, other)
    for path in other.glob("*/run.json"):
        data = json.loads(path.read_text())
        data["system"] = other.name
        for metric in data["metrics"]:
            metric["value"] = metric["median"] = 987654.0
        path.write_text(json.dumps(data))
    page = report.build(results, tmp_path, own.name).read_text(encoding="utf-8")
    assert "987,654" not in page
    assert "other-machine-64t-00000000" in page
    with pytest.raises(ProjectError, match=own.name):
        report.build(results, tmp_path, "no-such-system")


def test_without_records_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="privlib run"):
        report.build(tmp_path / "results", tmp_path)


def test_a_serious_run_is_shown_rather_than_a_newer_smoke_test(root: Path) -> None:
    found = records.find(root / "results", "inference")
    smoke = Run(found[-1].folder, {**found[-1].data, "profile": "smoke"})
    assert report._shown([found[-1], smoke]) is found[-1]
    assert report._shown([smoke]) is smoke


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("page", ["index.html", "notebooks/02_enclave_ml.html", "notebooks/03_wide.html"])
def test_lays_out_without_overflow_broken_figures_or_tracebacks(
    root: Path, tmp_path: Path, page: str, width: int
) -> None:
    measured = layout(root / "results" / "report" / page, width, tmp_path / "browser")
    assert measured["width"] == width
    assert measured["scroll_width"] <= width, measured["too_wide"]
    assert measured["too_wide"] == []
    assert measured["broken"] == measured["clipped"] == []
    assert measured["without_alt"] == 0
    assert measured["images"] == (0 if "wide" in page else 1)
    assert "Traceback" not in measured["text"]
    assert [name for name in measured["resources"] if not name.startswith("data:")] == []


def test_mathematics_becomes_mathml_and_code_is_left_alone() -> None:
    text = "A rate of $\\epsilon = 3$ costs $5, not `$x$`; $$\\sum_i g_i$$"
    made = pages._MATH.sub(pages._to_mathml, text)
    assert made.count("<math") == 2
    assert "costs $5, not `$x$`" in made


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (21.3, "images/s", "21.3 images/s"),
        (1234.567, "images/s", "1,235 images/s"),
        (0.0312345, "s", "0.03123 s"),
        (3e-6, "", "3.00e-06"),
        (2.0, "×", "2×"),
        (3 * 2**20, "bytes", "3 MiB"),
        (12, "", "12"),
        (0.0, "", "0"),
        (-1.5, "dB", "-1.5 dB"),
        ("ab" * 32, "", "abababababab…"),
    ],
)
def test_numbers_are_readable(value: Any, unit: str, text: str) -> None:
    assert tables.with_unit(value, unit) == text


def test_labels_are_readable() -> None:
    assert tables.label("vgg9_batch64") == "VGG-9, batch 64"
    assert tables.label("pytorch_channels_last") == "PyTorch channels last"
    assert tables.label("speedup_over_fastest_fp32_pytorch") == "Speedup over fastest fp32 PyTorch"
