"""JSON from bytes that nobody vouches for.

The standard library's parser calls itself for each level of nesting and leaves it to the interpreter's recursion limit
to stop it. Some libraries raise that limit so far that a few kilobytes of brackets end the process on a full stack; so
the depth is counted before anything is parsed.
"""

import json
import re
from collections.abc import Callable
from typing import Any

MAXIMUM_DEPTH = 32
# A string up to its end, or to the text's where it has none, so that every character is looked at once; or a bracket.
_PART = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)


def read_json(data: bytes | str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """The value of a text in UTF-8. parse_constant: as of `json.loads`.

    Raises ValueError for what is no JSON, and for one nested deeper than MAXIMUM_DEPTH.
    """
    text = data if isinstance(data, str) else data.decode()
    depth = 0
    for part in _PART.finditer(text):
        first = part[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > MAXIMUM_DEPTH:
            raise ValueError(f"JSON nested deeper than {MAXIMUM_DEPTH} levels")
    return json.loads(text, parse_constant=parse_constant)
