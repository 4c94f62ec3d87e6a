"""JSON from strangers: the same values as the standard library's, and no depth that the stack does not hold."""

import contextlib
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privlib.trusted.bounded_json import MAXIMUM_DEPTH, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
TEXTS = st.binary(max_size=200) | st.text(alphabet='[]{}":,\\\\ 1a\U0001f511', max_size=200).map(str.encode)


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_what_json_writes_comes_back(value: object) -> None:
    assert read_json(json.dumps(value)) == value == read_json(json.dumps(value, ensure_ascii=False).encode())


@pytest.mark.parametrize("kind", ["[", '{"a":'])
def test_depth_is_bounded(kind: str) -> None:
    closing = "]" if kind == "[" else "}"
    fits = kind * (MAXIMUM_DEPTH - 1) + "[1]" + closing * (MAXIMUM_DEPTH - 1)
    assert json.loads(fits) == read_json(fits)
    with pytest.raises(ValueError, match="nested deeper than 32 levels"):
        read_json(kind * MAXIMUM_DEPTH + "[1]" + closing * MAXIMUM_DEPTH)


def test_brackets_within_strings_do_not_count() -> None:
    for text in ("[" * 100, '\\"' + "[" * 100, "\\\\", '"'):
        assert read_json(json.dumps([text])) == [text]


@pytest.mark.parametrize("text", [b'["' + b'\\"' * 200_000, b'"' * 400_000, b"\\" * 400_000])
def test_a_string_without_an_end_costs_one_pass(text: bytes) -> None:
    with pytest.raises(ValueError, match="(Unterminated|Extra|Expecting)"):
        read_json(text)


def test_other_encodings_are_refused() -> None:
    """Counted as bytes, brackets of a text in UTF-16 could hide behind what looks like a quote."""
    for encoding in ("utf-16", "utf-32", "utf-8-sig"):
        with pytest.raises(ValueError):
            read_json("[1]".encode(encoding))


def test_deep_texts_are_refused_where_some_library_has_raised_the_recursion_limit() -> None:
    """In a process of its own: without the bound its stack overflows, and it dies by a signal."""
    program = (
        "import sys; sys.setrecursionlimit(1_000_000)\n"
        "from privlib.errors import PrivlibError\n"
        "from privlib.trusted import ledger, protocol, terms\n"
        "deep = b'[' * 60_000\n"
        'head = b\'{"kind":"x","arrays":[],"fields":\' + deep\n'
        "payload = len(head).to_bytes(4, 'little') + head\n"
        "for read in (lambda: protocol.decode(payload), lambda: terms.Terms.decode(deep * 20),\n"
        "             lambda: ledger.parse('it', b'0' * 64 + b' ' + deep * 20 + b'\\n')):\n"
        "    try:\n"
        "        read()\n"
        "    except PrivlibError as error:\n"
        "        print(type(error).__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.split() == ["ProtocolError", "TermsError", "LedgerError"]


def hostile(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        value = read_json(text)
        assert value == json.loads(text.decode())


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_hostile_texts_are_read_as_json_or_refused(text: bytes) -> None:
    hostile(text)


@pytest.mark.soak
@given(TEXTS)
@settings(max_examples=100_000, deadline=None)
def test_a_hundred_thousand_hostile_texts(text: bytes) -> None:
    hostile(text)
