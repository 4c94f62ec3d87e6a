"""Terms of use: one text for each, and nothing else is read."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.trusted.ledger import Budget
from privlib.trusted.terms import Terms, TermsError

MANY = frozenset(bytes([i, j]) * 16 for i in range(17) for j in range(16))
KEYS = frozenset({bytes(32), bytes(31) + b"1"})


@pytest.mark.parametrize(
    "terms", [Terms(1.0), Terms(None), Terms(3, 1e-6), Terms(0.5, 0.1, KEYS), Terms(1.0, 0.1, frozenset()),
              Terms(1.0, 0.1, KEYS, "ab" * 32, 31337)]
)  # fmt: skip
def test_they_come_back(terms: Terms) -> None:
    assert Terms.decode(terms.encode()) == terms


def test_they_say_budget_and_consumers() -> None:
    assert Terms(None).budget is None and Terms(2.0, 1e-6).budget == Budget(2.0, 1e-6)
    assert Terms(1.0).allow(None) and Terms(1.0, consumers=KEYS).allow(bytes(32))
    assert not any(Terms(1.0, consumers=KEYS).allow(each) for each in (None, b"2" * 32))
    assert not Terms(1.0, consumers=frozenset()).allow(None)


@pytest.mark.parametrize(
    "arguments",
    [(0.0,), (-1.0,), (float("inf"),), (float("nan"),), (True,), ("1",), (1.0, 0.0), (1.0, 1.0), (None, 2.0),
     (1.0, 0.1, frozenset({b"short"})), (1.0, 0.1, MANY), (1.0, 0.1, None, "ab" * 32), (1.0, 0.1, None, None, 1),
     (1.0, 0.1, None, "short", 1),
     (1.0, 0.1, None, 5, 1), (1.0, 0.1, None, "ab" * 32, 0), (1.0, 0.1, None, "ab" * 32, True)],
)  # fmt: skip
def test_senseless_terms_are_refused(arguments: Any) -> None:
    with pytest.raises(TermsError):
        Terms(*arguments)


GOOD = Terms(1.0, 1e-5, KEYS).encode()


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"1", b"\xff", b"[" * 10_000, GOOD + b" ", GOOD.replace(b":", b": "),
             GOOD.replace(b"1.0", b"NaN"), GOOD.replace(b"1.0", b"1.00"), GOOD.replace(b"{", b'{"also":1,')],
)  # fmt: skip
def test_another_text_is_refused(data: bytes) -> None:
    with pytest.raises(TermsError):
        Terms.decode(data)


@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_hostile_texts_are_read_whole_or_refused(put: bytes, at: int, cut: int) -> None:
    hostile(put, at, cut)


@pytest.mark.soak
@given(st.binary(max_size=60), st.integers(0, len(GOOD)), st.integers(0, 4))
@settings(max_examples=100_000, deadline=None)
def test_100_000_hostile_texts_are_read_whole_or_refused(put: bytes, at: int, cut: int) -> None:
    hostile(put, at, cut)


def hostile(put: bytes, at: int, cut: int) -> None:
    data = GOOD[:at] + put + GOOD[at + cut :]
    with contextlib.suppress(TermsError):
        assert Terms.decode(data).encode() == data
