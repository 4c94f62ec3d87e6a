"""What `make soak` leaves behind: a valid record with one verdict a test. And who runs beside whom."""

from itertools import pairwise
from pathlib import Path

import pytest

from privlib.suite import records

pytest_plugins = ["pytester"]


def test_recorded_session_leaves_a_record_with_a_verdict_for_each_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(__file__).with_name("conftest.py").read_text()
    pytester.makeconftest(source.replace("Path(__file__).resolve().parent.parent", "Path(__file__).resolve().parent"))
    pytester.makepyfile(
        test_counts=(
            "from privlib.suite import record\n"
            "def test_good():\n"
            "    record.metric('counts/kills/survived', 50, '', nature='deterministic', higher_is_better=True)\n"
            "def test_bad():\n    raise ValueError('planted')\n"
        )
    )
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    result = pytester.runpytest_subprocess("--record", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=1)
    (run,) = records.find(pytester.path / "results")
    assert run.data["status"] == "failed" and "test_bad" in run.data["reason"]
    metrics = run.metrics()
    assert metrics["counts/test_good/passed"]["value"] == 1
    assert metrics["counts/test_bad/passed"]["value"] == 0
    assert metrics["counts/kills/survived"]["value"] == 50


def test_session_without_the_option_leaves_nothing(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text().replace(".parent.parent", ".parent"))
    pytester.makepyfile("def test_nothing():\n    pass\n")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
    assert not (pytester.path / "results").exists()


SPANS = """
import time
from itertools import pairwise
from pathlib import Path

import pytest

def span():
    begin = time.monotonic()
    time.sleep(0.1)
    with Path(__file__).with_name("spans").open("a") as spans:
        spans.write(f"{begin} {time.monotonic()} {Path(__file__).stem}\\n")
"""


def test_a_test_marked_alone_shares_the_machine_with_no_other(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text().replace(".parent.parent", ".parent"))
    many = "@pytest.mark.parametrize('number', range(8))\ndef test_it(number):\n    span()\n"
    alone = "@pytest.mark.alone\ndef test_it():\n    span()\n@pytest.mark.alone\ndef test_more():\n    span()\n"
    pytester.makepyfile(test_a=SPANS + many, test_b=SPANS + many, test_c=SPANS + alone)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    options = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "-p", "no:cacheprovider")
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=18)
    lines = [line.split() for line in (pytester.path / "spans").read_text().splitlines()]
    spans = sorted((float(begin), float(end), name) for begin, end, name in lines)
    overlapping = [{one[2], other[2]} for one, other in pairwise(spans) if other[0] < one[1]]
    assert overlapping and all(pair == {"test_a", "test_b"} for pair in overlapping)
