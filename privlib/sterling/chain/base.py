"""What a chain is: accounts, transactions, logs, finality. One conformance suite runs over every implementation.

Every transaction is mined at once in a block of its own. A block is final once `confirmations` blocks follow it; what
is final is never reorganised. Gas is counted and costs nothing (the base fee is zero), so that balances are exact.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

from privlib.sterling.chain.account import Account
from privlib.sterling.chain.compiled import ContractCode
from privlib.sterling.chain.contract import Contract
from privlib.sterling.chain.errors import ChainError, ReorganisedError

At = Literal["latest", "final"]
"""Which state to read: the newest, or the newest that no reorganisation can undo."""

ETHER = 10**18
CONFIRMATIONS = 3
INITIAL_BALANCE = 10_000 * ETHER
GENESIS_SECONDS = 1_750_000_000
TRANSACTION_GAS = 16_000_000
"""What a transaction may use; the network's own limit is 2²⁴ (EIP-7825)."""


@dataclass(frozen=True)
class Block:
    """A block: timestamp in Unix seconds, hash 32 bytes."""

    number: int
    hash: bytes
    timestamp: int


@dataclass(frozen=True)
class Log:
    """A log entry as the EVM wrote it: topics 32 bytes each."""

    address: str
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    transaction: bytes


@dataclass(frozen=True)
class Receipt:
    """A transaction that was mined. transaction: its hash, 32 bytes; contract: the address it created, if it did."""

    transaction: bytes
    block: Block
    gas_used: int
    contract: str | None
    logs: tuple[Log, ...]


class Chain(ABC):
    """A chain. Context manager: leaving it stops what was started for it.

    confirmations: how many blocks must follow before a block is final.
    """

    chain_id: int
    confirmations: int

    # What an implementation gives.

    @abstractmethod
    def head(self) -> Block:
        """The newest block."""

    @abstractmethod
    def block(self, number: int) -> Block:
        """A block of this branch. Raises ChainError where there is none."""

    @abstractmethod
    def balance(self, address: str, at: At = "latest") -> int:
        """Wei of an address."""

    @abstractmethod
    def set_balance(self, address: str, wei: int) -> None:
        """Give an address exactly so much (as genesis would; on a test chain alone)."""

    @abstractmethod
    def call(self, to: str, data: bytes, sender: str | None = None, at: At = "latest") -> bytes:
        """Run a contract's code without a transaction; what it returns. Raises RevertedError."""

    @abstractmethod
    def send(self, sender: Account, to: str | None, data: bytes, value: int = 0) -> Receipt:
        """Sign, send and mine a transaction (to None: deploy `data`). Raises RevertedError, ChainError."""

    @abstractmethod
    def receipt(self, transaction: bytes) -> Receipt | None:
        """The receipt; None where no block of this branch has that transaction."""

    @abstractmethod
    def logs(self, address: str, first_block: int = 0, at: At = "latest") -> list[Log]:
        """A contract's logs from first_block on, oldest first; with at="final" those of final blocks alone."""

    @abstractmethod
    def mine(self, blocks: int = 1) -> None:
        """Let so many empty blocks pass."""

    @abstractmethod
    def advance(self, seconds: int) -> None:
        """Let time pass: one empty block, `seconds` after the newest."""

    @abstractmethod
    def reorganise(self, depth: int) -> list[bytes]:
        """Another branch wins: the newest `depth` blocks are replaced by as many empty ones.

        Returns the hashes of the transactions that were undone (they are not sent again). For tests: nobody but the
        network does this. Raises ChainError where it would undo what is final.
        """

    def close(self) -> None:  # noqa: B027 - a chain in memory has nothing to stop
        """Stop what was started; its state is saved where it was asked for."""

    # What follows from it.

    def account(self, name: str) -> Account:
        """A new account with a random key and INITIAL_BALANCE wei."""
        made = Account(name)
        self.set_balance(made.address, INITIAL_BALANCE)
        return made

    def deploy(self, code: ContractCode, *arguments: Any, sender: Account, value: int = 0) -> Contract:
        """Put a contract on the chain; its constructor takes `arguments`. Raises RevertedError, ChainError."""
        receipt = self.send(sender, None, code.creation(*arguments), value)
        assert receipt.contract is not None
        return Contract(self, receipt.contract, code, receipt)

    def final(self) -> Block:
        """The newest block that is final (the first, as long as none is)."""
        return self.block(max(0, self.head().number - self.confirmations))

    def is_final(self, receipt: Receipt) -> bool:
        """Whether the transaction is in a final block. Raises ReorganisedError where it was undone."""
        self._require(receipt)
        return self.head().number >= receipt.block.number + self.confirmations

    def finalise(self, receipt: Receipt, progress: Callable[[int, int], None] = lambda done, total: None) -> Block:
        """Let blocks pass until the transaction is final; its block. progress is called with (blocks, confirmations).

        Raises ReorganisedError where the transaction was undone.
        """
        while not self.is_final(receipt):
            progress(self.head().number - receipt.block.number, self.confirmations)
            self.mine()
        progress(self.confirmations, self.confirmations)
        return receipt.block

    def _require(self, receipt: Receipt) -> None:
        found = self.receipt(receipt.transaction)
        if found is None or found.block.hash != receipt.block.hash:
            raise ReorganisedError(
                f"transaction {receipt.transaction.hex()} of block {receipt.block.number} is not on this branch any "
                "more: send it again if it is still wanted"
            )

    def _require_depth(self, depth: int) -> None:
        if not 0 < depth <= min(self.confirmations, self.head().number):
            raise ChainError(
                f"a reorganisation of {depth} blocks: between 1 and {self.confirmations} can be undone, older ones are "
                "final"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
