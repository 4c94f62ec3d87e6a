"""Pictures of enclaves: drawn, with an alternative text that holds what they show."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.patches import Rectangle

from privlib.enclave import pictures
from privlib.enclave.costs import SgxCosts, modelled_cost
from privlib.enclave.platforms.base import LaunchReport, MappedFile

NOTHING = {"system_calls": 0, "bytes_in": 0, "bytes_out": 0}


def test_the_conversation_is_told_in_words_too() -> None:
    figure, alt = pictures.conversation()
    plt.close(figure)
    assert alt.index("quote: measurement") < alt.index("key, sealed") < alt.index("certificate")


def test_mapped_files_add_up_and_pythons_own_are_left_out() -> None:
    files = [MappedFile(f"site/lib{number}.so.1", (20 - number) * 1_000_000, 1) for number in range(13)]
    report = LaunchReport("simulated", {}, (MappedFile("host/python3", 90_000_000, 1), *files), 2, 1.0)
    figure, alt = pictures.mapped(report)
    sizes = [bar.get_width() for bar in figure.axes[0].patches if isinstance(bar, Rectangle)]
    plt.close(figure)
    assert len(sizes) == 11 and sum(sizes) == pytest.approx(sum(file.size for file in files) / 1e6)
    assert "lib0 20.0" in alt and "3 others" in alt and "python" not in alt.replace("Python", "")


def test_modelled_costs_are_named_so_beside_what_was_measured() -> None:
    after = {"system_calls": 1000, "bytes_in": 10**6, "bytes_out": 0}
    costs = {"an epoch": modelled_cost(NOTHING, after, 10**9, 2, SgxCosts())}
    figure, alt = pictures.modelled(costs, {"an epoch": 3.0})
    plt.close(figure)
    assert "3 s measured" in alt and "(modelled) added" in alt
    (row,) = pictures.cost_rows(costs)
    assert row["work"] == "an epoch" and row["total"].endswith("(modelled)")
