"""Samples: their distribution, their shapes, and where their randomness comes from."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from scipy import stats

from privlib.trusted.events import Event
from privlib.trusted.randomness import Stream
from privlib.trusted.sampling import PhysicalBatch, PoissonSampler, RandomAllocationSampler, SamplingError

KEY = bytes(range(32))


def drawn(batches: list[PhysicalBatch]) -> np.ndarray:
    return np.concatenate([batch.indices[batch.mask] for batch in batches] or [np.empty(0, np.int64)])


def test_poisson_draws_each_example_independently_at_its_rate() -> None:
    sampler, steps = PoissonSampler(500, 0.1, 16, test_key=KEY), 2000
    taken = np.zeros((steps, 500), bool)
    for step in range(steps):
        taken[step, drawn(sampler.draw())] = True
    # each example's count is binomial: compare the 500 counts with that law
    counts = taken.sum(0)
    assert stats.kstest((counts - 200) / np.sqrt(180), "norm").pvalue > 1e-3
    sizes = taken.sum(1)
    assert abs(sizes.mean() - 50) < 5 * np.sqrt(45 / steps)
    assert 0.85 < sizes.var() / 45 < 1.15  # a fixed-size sampler would have none
    together = np.corrcoef(taken.T.astype(float))[np.triu_indices(500, 1)]
    assert abs(together.mean()) < 5 / np.sqrt(steps * len(together)) + 1e-3


def test_empty_draws_are_steps_too() -> None:
    """Case 05: 0.999^1000 = 0.368; 200 steps, 73.5 ± 7 of them empty."""
    sampler = PoissonSampler(1000, 0.001, 16, test_key=KEY)
    draws = [sampler.draw() for _ in range(200)]
    empty = sum(draw == [] for draw in draws)
    assert abs(empty - 73.5) < 4 * 7
    assert sampler.event(1.0, 200).steps == 200


def test_batches_have_one_shape_and_masks() -> None:
    sampler = PoissonSampler(100, 0.3, 8, test_key=KEY)
    for _ in range(50):
        batches = sampler.draw()
        chosen = drawn(batches)
        assert len(batches) == -(-len(chosen) // 8)
        assert len(set(chosen)) == len(chosen) and set(chosen) <= set(range(100))
        for batch in batches:
            assert batch.indices.shape == batch.mask.shape == (8,)
            assert batch.indices.dtype == np.int64 and batch.mask.dtype == bool
            assert not batch.indices[~batch.mask].any()
        assert all(batch.mask.all() for batch in batches[:-1])


def test_the_order_is_random() -> None:
    """Which example stands last is uniform: the coupling of neighbouring draws needs it."""
    sampler = PoissonSampler(20, 1.0, 32, test_key=KEY)
    last = np.bincount([drawn(sampler.draw())[-1] for _ in range(4000)], minlength=20)
    assert stats.chisquare(last).pvalue > 1e-3


def test_a_bounded_number_of_batches_is_always_the_same_and_truncates_at_random() -> None:
    sampler = PoissonSampler(40, 0.5, 4, physical_batches=3, test_key=KEY)
    kept = np.zeros(40)
    for _ in range(3000):
        batches = sampler.draw()
        assert len(batches) == 3
        kept[drawn(batches)] += 1
    assert stats.chisquare(kept).pvalue > 1e-3
    expected = Event("truncated_poisson", 2.0, 5, sample_rate=0.5, dataset_size=41, largest_batch=12)
    assert sampler.event(2.0, 5) == expected
    assert [batch.mask.any() for batch in PoissonSampler(40, 0.0, 4, 2).draw()] == [False, False]


def test_the_event_says_what_was_sampled() -> None:
    assert PoissonSampler(10, 0.25, 4).event(1.5, 7) == Event("poisson", 1.5, 7, sample_rate=0.25)
    assert PoissonSampler(10, 1.0, 4).event(1.5, 7) == Event("full", 1.5, 7)
    allocation = RandomAllocationSampler(10, 5, 4, selections=2).event(1.5, 10)
    assert allocation == Event("random_allocation", 1.5, 10, steps_per_epoch=5, selections=2)


def test_random_allocation_uses_each_example_exactly_k_times_an_epoch() -> None:
    sampler = RandomAllocationSampler(50, 7, 4, selections=3, test_key=KEY)
    pairs = np.zeros((7, 7))
    for _ in range(300):
        epoch = [drawn(sampler.draw()) for _ in range(7)]
        taken = np.array([np.isin(np.arange(50), step) for step in epoch])
        assert (taken.sum(0) == 3).all()
        pairs += taken.astype(float) @ taken.T
    each, both = np.diag(pairs), pairs[np.triu_indices(7, 1)]
    assert stats.chisquare(each).pvalue > 1e-3
    assert stats.chisquare(both).pvalue > 1e-3  # all subsets of three steps alike


def test_restart_gives_up_the_rest_of_an_epoch() -> None:
    sampler = RandomAllocationSampler(30, 3, 30, test_key=KEY)
    sampler.draw()
    sampler.restart()
    assert sorted(np.concatenate([drawn(sampler.draw()) for _ in range(3)])) == list(range(30))


def test_randomness_comes_from_the_operating_system(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.urandom

    def urandom(count: int) -> bytes:
        asked.append(count)
        return real(count)

    monkeypatch.setattr(os, "urandom", urandom)
    sampler = PoissonSampler(1000, 0.5, 64)
    first, second = drawn(sampler.draw()), drawn(sampler.draw())
    assert asked == [32, 32] and sampler.private
    assert sorted(first) != sorted(second)
    keyed = PoissonSampler(1000, 0.5, 64, test_key=KEY)
    assert not keyed.private and not RandomAllocationSampler(4, 2, 2, test_key=KEY).private
    np.testing.assert_array_equal(drawn(keyed.draw()), drawn(PoissonSampler(1000, 0.5, 64, test_key=KEY).draw()))


def test_streams_are_chacha20_and_never_repeat() -> None:
    """RFC 8439, appendix A.1, test vector 1: key and nonce zero, block 0."""
    assert Stream(bytes(32)).words(2).tobytes().hex() == "76b8e0ada0f13d90405d6ae55386bd28"
    stream = Stream(KEY, 3)
    both = np.concatenate([stream.words(10), stream.words(30)])
    cipher = Cipher(algorithms.ChaCha20(KEY, bytes(8) + (3).to_bytes(8, "little")), None).encryptor()
    assert both.tobytes() == cipher.update(bytes(320))
    assert len({Stream(KEY, number).words(4).tobytes() for number in range(50)}) == 50


def test_whole_numbers_below_a_bound_are_uniform() -> None:
    found = np.bincount(Stream(KEY).below(7, 70_000), minlength=7)
    assert len(found) == 7 and stats.chisquare(found).pvalue > 1e-3
    assert set(Stream(KEY).below(1, 10)) == {0}
    near = 2**63 - 1  # half of all words are past the last multiple of this
    assert Stream(KEY).below(near, 1000).max() < near


@pytest.mark.parametrize(
    "make",
    [
        lambda: PoissonSampler(10, 1.5, 4),
        lambda: PoissonSampler(10, float("nan"), 4),
        lambda: PoissonSampler(0, 0.5, 4),
        lambda: PoissonSampler(10, 0.5, 0),
        lambda: PoissonSampler(10, 0.5, 4, physical_batches=0),
        lambda: PoissonSampler(10, 0.5, 4, test_key=b"short"),
        lambda: RandomAllocationSampler(10, 5, 4, selections=6),
        lambda: RandomAllocationSampler(10, 5, 4, selections=0),
    ],
)
def test_senseless_numbers_are_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(SamplingError):
        make()
