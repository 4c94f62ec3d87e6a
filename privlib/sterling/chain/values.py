"""Between Python's values and the contract ABI's (Solidity's "Contract ABI Specification").

Integers and bytes as they are, addresses as hexadecimal strings or accounts, structs as dataclasses or tuples in the
order of their fields.
"""

from dataclasses import fields, is_dataclass
from typing import Any

from privlib.sterling.chain.account import Account


def abi_type(entry: dict[str, Any]) -> str:
    """The ABI's name of a type; a struct's is the list of its fields' types."""
    kind: str = entry["type"]
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(abi_type(each) for each in entry['components'])}){kind.removeprefix('tuple')}"


def plain(value: Any) -> Any:
    """A value as the encoder takes it."""
    if isinstance(value, Account):
        return value.address
    if is_dataclass(value) and not isinstance(value, type):
        return tuple(plain(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, (list, tuple)):
        return tuple(plain(each) for each in value)
    return value
