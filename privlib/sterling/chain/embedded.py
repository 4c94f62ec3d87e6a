"""A chain in this process: revm runs the transactions, and this module keeps the blocks.

The state after a block is what running all transactions up to it gives, so two machines are kept: one at the newest
block, one that follows at the newest final block. A reorganisation builds the first anew from the blocks that stay.
Block hashes are Keccak over parent, number, time and transactions; there is no state root, and no peer to convince.

revm's Python package has no P-256 precompile (EIP-7951): contract code with the same interface stands at its address
(`p256=False` leaves the address empty, as on a chain before that change).
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyrevm
from eth_abi.abi import decode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from privlib.sterling import contracts
from privlib.sterling.chain.account import Account
from privlib.sterling.chain.base import CONFIRMATIONS, At, Block, Chain, Log, Receipt
from privlib.sterling.chain.compiled import compile_vyper
from privlib.sterling.chain.errors import ChainError, RevertedError

CHAIN_ID = 31337
P256_ADDRESS = "0x0000000000000000000000000000000000000100"
GAS_LIMIT = 30_000_000
_GENESIS_SECONDS = 1_750_000_000
_NOBODY = "0x0000000000000000000000000000000000000000"
_ERROR_SELECTOR = keccak(text="Error(string)")[:4]
_REVERT = re.compile(r"Revert \{ gas_used: \d+, output: 0x([0-9a-f]*) \}")


@dataclass(frozen=True)
class _Transaction:
    hash: bytes
    sender: str
    to: str | None
    data: bytes
    value: int


@dataclass(frozen=True)
class _Mined:
    """A block with what was in it: a transaction, or balances that were set."""

    block: Block
    transaction: _Transaction | None = None
    balances: tuple[tuple[str, int], ...] = ()


class EmbeddedChain(Chain):
    """A chain that lives as long as this object.

    confirmations: blocks until a block is final. timestamp: Unix seconds of the first block. p256: whether the P-256
    verifier stands at its address.
    """

    def __init__(
        self, confirmations: int = CONFIRMATIONS, timestamp: int = _GENESIS_SECONDS, *, p256: bool = True
    ) -> None:
        self.chain_id, self.confirmations, self._p256 = CHAIN_ID, confirmations, p256
        self._blocks = [_Mined(Block(0, keccak(b"privlib embedded chain"), timestamp))]
        self._newest, self._final = _Machine(p256), _Machine(p256)
        self._receipts: dict[bytes, Receipt] = {}
        self._logs: list[Log] = []
        self._sent = 0

    def head(self) -> Block:
        return self._blocks[-1].block

    def block(self, number: int) -> Block:
        if not 0 <= number < len(self._blocks):
            raise ChainError(f"there is no block {number}; the newest is {len(self._blocks) - 1}")
        return self._blocks[number].block

    def balance(self, address: str, at: At = "latest") -> int:
        return self._machine(at).evm.get_balance(address)

    def set_balance(self, address: str, wei: int) -> None:
        mined = _Mined(self._next(1, b"balance", address.encode(), str(wei).encode()), balances=((address, wei),))
        self._blocks.append(mined)
        self._newest.run(mined)

    def call(self, to: str, data: bytes, sender: str | None = None, at: At = "latest") -> bytes:
        machine = self._machine(at)
        machine.enter(self.head() if at == "latest" else self.final())
        checkpoint = machine.evm.snapshot()
        try:
            return machine.message(sender or _NOBODY, to, data, 0)
        finally:
            machine.evm.revert(checkpoint)

    def send(self, sender: Account, to: str | None, data: bytes, value: int = 0) -> Receipt:
        if self.balance(sender.address) < value:
            raise ChainError(f"{sender.name} has {self.balance(sender.address)} wei, the transaction sends {value}")
        self._sent += 1
        digest = keccak(b"".join((self.head().hash, self._sent.to_bytes(8, "big"), sender.address.encode(), data)))
        transaction = _Transaction(digest, sender.address, to, data, value)
        block = self._next(1, digest)
        receipt = self._newest.run(_Mined(block, transaction))
        assert receipt is not None
        self._blocks.append(_Mined(block, transaction))
        self._receipts[digest] = receipt
        self._logs += receipt.logs
        return receipt

    def receipt(self, transaction: bytes) -> Receipt | None:
        return self._receipts.get(transaction)

    def logs(self, address: str, first_block: int = 0, at: At = "latest") -> list[Log]:
        last = (self.head() if at == "latest" else self.final()).number
        return [log for log in self._logs if log.address == address and first_block <= log.block_number <= last]

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self._blocks.append(_Mined(self._next(1)))

    def advance(self, seconds: int) -> None:
        if seconds < 1:
            raise ChainError(f"time on a chain only passes: {seconds} seconds")
        self._blocks.append(_Mined(self._next(seconds)))

    def reorganise(self, depth: int) -> list[bytes]:
        self._require_depth(depth)
        undone = [each.transaction.hash for each in self._blocks[-depth:] if each.transaction]
        seconds = [each.block.timestamp for each in self._blocks[-depth:]]
        self._machine("final")
        del self._blocks[-depth:]
        self._newest = _Machine(self._p256)
        for each in self._blocks:
            self._newest.run(each)
        for each in undone:
            del self._receipts[each]
        self._logs = [log for log in self._logs if log.block_number < len(self._blocks)]
        for time in seconds:
            self._blocks.append(_Mined(self._next(time - self.head().timestamp, b"another branch")))
        return undone

    def _next(self, seconds: int, *content: bytes) -> Block:
        before = self.head()
        number, timestamp = before.number + 1, before.timestamp + seconds
        header = (before.hash, number.to_bytes(8, "big"), timestamp.to_bytes(8, "big"), *content)
        return Block(number, keccak(b"".join(header)), timestamp)

    def _machine(self, at: At) -> "_Machine":
        if at == "latest":
            return self._newest
        for each in self._blocks[self._final.blocks : self.final().number + 1]:
            self._final.run(each)
        return self._final


class _Machine:
    """An EVM that has run the first `blocks` blocks (empty ones at the end may be left out)."""

    def __init__(self, p256: bool) -> None:
        config = pyrevm.CfgEnv(chain_id=CHAIN_ID)
        self.evm = pyrevm.EVM(env=pyrevm.Env(cfg=config), gas_limit=GAS_LIMIT, spec_id="CANCUN")
        self.blocks = 0
        if p256:
            self.evm.insert_account_info(P256_ADDRESS, pyrevm.AccountInfo(code=_p256_code()))

    def enter(self, block: Block) -> None:
        self.evm.set_block_env(
            pyrevm.BlockEnv(number=block.number, timestamp=block.timestamp, gas_limit=GAS_LIMIT, basefee=0)
        )

    def run(self, mined: _Mined) -> Receipt | None:
        """Run a block; the receipt of its transaction. Raises RevertedError, and the block has not been run."""
        transaction, receipt = mined.transaction, None
        for address, wei in mined.balances:
            self.evm.set_balance(address, wei)
        if transaction is not None:
            self.enter(mined.block)
            created = None
            if transaction.to is None:
                created = self.deploy(transaction.sender, transaction.data, transaction.value)
            else:
                self.message(transaction.sender, transaction.to, transaction.data, transaction.value)
            result = self.evm.result
            logs = [_log(each, mined.block.number, transaction.hash) for each in result.logs]
            receipt = Receipt(transaction.hash, mined.block, result.gas_used, created, tuple(logs))
        self.blocks = mined.block.number + 1
        return receipt

    def message(self, sender: str, to: str, data: bytes, value: int) -> bytes:
        try:
            return self.evm.message_call(sender, to, data, value=value)
        except (RuntimeError, OverflowError) as error:
            raise _refusal(f"a call of {to}", error) from error

    def deploy(self, sender: str, code: bytes, value: int) -> str:
        try:
            return to_checksum_address(self.evm.deploy(sender, code, value))
        except (RuntimeError, OverflowError) as error:
            raise _refusal("a deployment", error) from error


@cache
def _p256_code() -> bytes:
    return compile_vyper(Path(contracts.__file__).with_name("P256Code.vy")).runtime


def _log(log: "pyrevm.Log", block: int, transaction: bytes) -> Log:
    topics, data = log.data
    return Log(to_checksum_address(log.address), tuple(map(_bytes, topics)), bytes(data), block, transaction)


def _bytes(value: bytes | str) -> bytes:
    return bytes.fromhex(value.removeprefix("0x")) if isinstance(value, str) else bytes(value)


def _refusal(what: str, error: Exception) -> ChainError:
    """revm's word of a failed transaction as an error: a revert with its reason, anything else as it is."""
    found = _REVERT.search(str(error))
    if not found:
        return RevertedError(what, str(error)) if "Halt" in str(error) else ChainError(f"{what}: {error}")
    return RevertedError(what, revert_reason(bytes.fromhex(found[1])))


def revert_reason(output: bytes) -> str:
    """The text of Error(string), "" where a contract gave none."""
    return str(decode(["string"], output[4:])[0]) if output[:4] == _ERROR_SELECTOR else ""
