"""A deployed contract: its functions and events by name."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eth_abi.abi import decode, encode
from eth_abi.exceptions import EncodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from privlib.sterling.chain.account import Account
from privlib.sterling.chain.compiled import ContractCode
from privlib.sterling.chain.errors import ChainError
from privlib.sterling.chain.values import abi_type, plain

if TYPE_CHECKING:
    from privlib.sterling.chain.base import At, Chain, Log, Receipt


@dataclass(frozen=True)
class Event:
    """An event of a contract: its arguments by name (addresses checksummed, structs as tuples, an indexed argument of
    dynamic size as its Keccak hash)."""

    name: str
    arguments: dict[str, Any]
    block_number: int
    transaction: bytes

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]


class Contract:
    """A contract at an address. `deployed`: the receipt of its deployment, where this process made it."""

    def __init__(self, chain: "Chain", address: str, code: ContractCode, deployed: "Receipt | None" = None) -> None:
        self.chain, self.address, self.code, self.deployed = chain, to_checksum_address(address), code, deployed
        self._functions: dict[str, list[dict[str, Any]]] = {}
        self._events: dict[bytes, dict[str, Any]] = {}
        for entry in code.abi:
            if entry["type"] == "function":
                self._functions.setdefault(entry["name"], []).append(entry)
            elif entry["type"] == "event":
                self._events[keccak(text=_signature(entry))] = entry

    def data(self, function: str, *arguments: Any) -> bytes:
        """The call's data: selector and arguments. Raises ChainError for an unknown function, or unfit arguments."""
        return self._encode(self._entry(function, len(arguments)), arguments)

    def call(self, function: str, *arguments: Any, sender: Account | str | None = None, at: "At" = "latest") -> Any:
        """What the function returns, without a transaction: one value, a tuple of several, or None.

        at="final": as of the newest final block. Raises RevertedError, ChainError.
        """
        entry = self._entry(function, len(arguments))
        who = sender.address if isinstance(sender, Account) else sender
        returned = self.chain.call(self.address, self._encode(entry, arguments), who, at)
        if not returned and entry["outputs"]:
            raise ChainError(f"{self.code.name}.{function} returned nothing: there is no contract at {self.address}")
        values = decode([abi_type(each) for each in entry["outputs"]], returned)
        found = tuple(_tidy(each, value) for each, value in zip(entry["outputs"], values, strict=True))
        return found[0] if len(found) == 1 else found or None

    def transact(self, function: str, *arguments: Any, sender: Account, value: int = 0) -> "Receipt":
        """Call the function in a transaction, mined when this returns. Raises RevertedError (nothing changed)."""
        return self.chain.send(sender, self.address, self.data(function, *arguments), value)

    def events(self, name: str | None = None, first_block: int = 0, at: "At" = "latest") -> list[Event]:
        """The contract's events, oldest first: all, or those of one name."""
        return self.decode(self.chain.logs(self.address, first_block, at), name)

    def events_of(self, receipt: "Receipt", name: str | None = None) -> list[Event]:
        """This contract's events in one transaction."""
        return self.decode([log for log in receipt.logs if log.address == self.address], name)

    def decode(self, logs: "list[Log]", name: str | None = None) -> list[Event]:
        """This contract's logs, understood."""
        return [each for each in map(self._event, logs) if name in (None, each.name)]

    def _entry(self, function: str, count: int) -> dict[str, Any]:
        for entry in self._functions.get(function, ()):
            if len(entry["inputs"]) == count:
                return entry
        known = ", ".join(_signature(each) for entries in self._functions.values() for each in entries)
        raise ChainError(f"{self.code.name} has no function {function} of {count} arguments; it has {known}")

    def _encode(self, entry: dict[str, Any], arguments: tuple[Any, ...]) -> bytes:
        try:
            body = encode([abi_type(each) for each in entry["inputs"]], [plain(each) for each in arguments])
        except (EncodingError, TypeError) as error:
            raise ChainError(f"{self.code.name}.{_signature(entry)}: {error}") from error
        return keccak(text=_signature(entry))[:4] + body

    def _event(self, log: "Log") -> Event:
        entry = self._events[log.topics[0]]
        indexed = [each for each in entry["inputs"] if each["indexed"]]
        others = [each for each in entry["inputs"] if not each["indexed"]]
        found = {}
        for each, topic in zip(indexed, log.topics[1:], strict=True):
            kind = abi_type(each)
            fixed = kind not in ("bytes", "string") and not kind.endswith("]") and not kind.startswith("(")
            found[each["name"]] = _tidy(each, decode([kind], topic)[0]) if fixed else topic
        values = decode([abi_type(each) for each in others], log.data)
        found |= {each["name"]: _tidy(each, value) for each, value in zip(others, values, strict=True)}
        ordered = {each["name"]: found[each["name"]] for each in entry["inputs"]}
        return Event(entry["name"], ordered, log.block_number, log.transaction)


def _signature(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(abi_type(each) for each in entry['inputs'])})"


def _tidy(entry: dict[str, Any], value: Any) -> Any:
    """Addresses checksummed, however deep."""
    kind: str = entry["type"]
    if kind.endswith("]"):
        inner = {**entry, "type": kind[: kind.rindex("[")]}
        return tuple(_tidy(inner, each) for each in value)
    if kind == "tuple":
        return tuple(_tidy(each, part) for each, part in zip(entry["components"], value, strict=True))
    return to_checksum_address(value) if kind == "address" else value
