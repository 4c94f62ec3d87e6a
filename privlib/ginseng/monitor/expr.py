"""The small language of the transition table: one interpreter, two meanings (Python integers, z3 terms).

Values are integers and truth values. A state is a set of named fields: single values, and maps from an index (an
enclave or a region) to a value. Expressions have no effects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Expr:
    """`operation` applied to `parts`: sub-expressions, or a name or number for the leaves."""

    operation: str
    parts: tuple[Any, ...]

    def eq(self, other: Expr | int) -> Expr:
        """Equal."""
        return Expr("eq", (self, lift(other)))

    def ne(self, other: Expr | int) -> Expr:
        """Not equal."""
        return ~self.eq(other)

    def lt(self, other: Expr | int) -> Expr:
        """Less than."""
        return Expr("lt", (self, lift(other)))

    def __add__(self, other: Expr | int) -> Expr:
        return Expr("add", (self, lift(other)))

    def __and__(self, other: Expr) -> Expr:
        return Expr("and", (self, other))

    def __or__(self, other: Expr) -> Expr:
        return Expr("or", (self, other))

    def __invert__(self) -> Expr:
        return Expr("not", (self,))

    def __getitem__(self, index: Expr | int) -> Expr:
        return Expr("at", (self, lift(index)))

    def __str__(self) -> str:
        shown = [str(part) for part in self.parts]
        match self.operation:
            case "not" if self.parts[0].operation == "eq":
                return f"{self.parts[0].parts[0]} != {self.parts[0].parts[1]}"
            case "not":
                return f"not ({shown[0]})"
            case "at":
                return f"{shown[0]}[{shown[1]}]"
            case "extend":
                return f"H({shown[0]}, {shown[1]})"
            case "eq" | "lt" | "add" | "and" | "or":
                sign = {"eq": "==", "lt": "<", "add": "+"}.get(self.operation, self.operation)
                return f"{shown[0]} {sign} {shown[1]}"
            case _:
                return shown[0]


def lift(value: Expr | int) -> Expr:
    """A number as an expression."""
    return value if isinstance(value, Expr) else Expr("number", (value,))


def field(name: str) -> Expr:
    """A field of the state."""
    return Expr("field", (name,))


def argument(name: str) -> Expr:
    """An argument of the call."""
    return Expr("argument", (name,))


def extend(chain: Expr | int, value: Expr | int) -> Expr:
    """The measurement chain's hash of two values."""
    return Expr("extend", (lift(chain), lift(value)))


TRUE = lift(0).eq(0)


class Algebra(Protocol):
    """What the operations mean; values are opaque to the interpreter."""

    def number(self, value: int) -> Any: ...
    def at(self, mapping: Any, index: Any) -> Any: ...
    def eq(self, left: Any, right: Any) -> Any: ...
    def lt(self, left: Any, right: Any) -> Any: ...
    def add(self, left: Any, right: Any) -> Any: ...
    def both(self, left: Any, right: Any) -> Any: ...
    def either(self, left: Any, right: Any) -> Any: ...
    def negate(self, value: Any) -> Any: ...
    def extend(self, chain: Any, value: Any) -> Any: ...


def interpret(expr: Expr, algebra: Algebra, state: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Value of `expr` in a state, under an algebra."""
    operation, parts = expr.operation, expr.parts
    if operation == "number":
        return algebra.number(parts[0])
    if operation == "field":
        return state[parts[0]]
    if operation == "argument":
        return arguments[parts[0]]
    values = [interpret(part, algebra, state, arguments) for part in parts]
    name = {"and": "both", "or": "either", "not": "negate"}.get(operation, operation)
    return getattr(algebra, name)(*values)


class Concrete:
    """Python integers and booleans; maps are dictionaries that read as 0 where nothing was stored."""

    def number(self, value: int) -> int:
        return value

    def at(self, mapping: Mapping[int, int], index: int) -> int:
        return mapping.get(index, 0)

    def eq(self, left: int, right: int) -> bool:
        return left == right

    def lt(self, left: int, right: int) -> bool:
        return left < right

    def add(self, left: int, right: int) -> int:
        return left + right

    def both(self, left: bool, right: bool) -> bool:
        return left and right

    def either(self, left: bool, right: bool) -> bool:
        return left or right

    def negate(self, value: bool) -> bool:
        return not value

    def extend(self, chain: int, value: int) -> int:
        return concrete_extend(chain, value)


def concrete_extend(chain: int, value: int) -> int:
    """SHA-256 over both values in decimal, as an integer: the executable monitor's measurement chain."""
    return int.from_bytes(hashlib.sha256(f"{chain},{value}".encode()).digest(), "big")
