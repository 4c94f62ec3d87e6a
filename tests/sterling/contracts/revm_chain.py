"""A chain for property tests: revm (pyrevm) runs the transactions, tens of times as fast as py-evm.

Right in everything but gas: pyrevm keeps one journal over all transactions, so storage stays warm. A reorganisation,
and a copy, run the transactions that stay once more on a fresh machine.
"""

import copy
import re
from dataclasses import dataclass

import pyrevm
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from privlib.sterling.chain import Account, Block, Chain, ChainError, Log, Receipt, RevertedError
from privlib.sterling.chain.base import CONFIRMATIONS, GENESIS_SECONDS, TRANSACTION_GAS, At
from privlib.sterling.chain.errors import revert_reason

CHAIN_ID = 31337
_BLOCK_GAS = 30_000_000
_NOBODY = "0x" + "00" * 20
_REVERT = re.compile(r"Revert \{ gas_used: \d+, output: 0x([0-9a-f]*) \}")


@dataclass(frozen=True)
class _Mined:
    """A block with what is in it: a transaction (sender, to, data, value), or a balance that was set."""

    block: Block
    transaction: tuple[str, str | None, bytes, int] | None = None
    balance: tuple[str, int] | None = None
    receipt: Receipt | None = None


class RevmChain(Chain):
    """As the embedded chain, but for gas, and without reading final states."""

    def __init__(self) -> None:
        self.chain_id, self.confirmations = CHAIN_ID, CONFIRMATIONS
        self._blocks = [_Mined(Block(0, keccak(b"revm"), GENESIS_SECONDS))]
        self._rebuild()

    def copied(self) -> "RevmChain":
        """Another chain with the same past."""
        other = copy.copy(self)
        other._blocks = list(self._blocks)
        other._rebuild()
        return other

    def head(self) -> Block:
        return self._blocks[-1].block

    def block(self, number: int) -> Block:
        return self._blocks[number].block

    def balance(self, address: str, at: At = "latest") -> int:
        return int(self._evm.get_balance(address))

    def set_balance(self, address: str, wei: int) -> None:
        self._append(_Mined(self._next(1), balance=(address, wei)))

    def call(self, to: str, data: bytes, sender: str | None = None, at: At = "latest") -> bytes:
        self._enter(self.head())
        checkpoint = self._evm.snapshot()
        try:
            return self._run((sender or _NOBODY, to, data, 0))[0]
        finally:
            self._evm.revert(checkpoint)

    def send(self, sender: Account, to: str | None, data: bytes, value: int = 0) -> Receipt:
        mined = self._append(_Mined(self._next(1), (sender.address, to, data, value)))
        assert mined.receipt is not None
        return mined.receipt

    def receipt(self, transaction: bytes) -> Receipt | None:
        found = (each.receipt for each in self._blocks)
        return next((each for each in found if each and each.transaction == transaction), None)

    def logs(self, address: str, first_block: int = 0, at: At = "latest") -> list[Log]:
        logs = (log for each in self._blocks[first_block:] if each.receipt for log in each.receipt.logs)
        return [log for log in logs if log.address == address]

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self._append(_Mined(self._next(1)))

    def advance(self, seconds: int) -> None:
        self._append(_Mined(self._next(seconds)))

    def reorganise(self, depth: int) -> list[bytes]:
        self._require_depth(depth)
        replaced = self._blocks[-depth:]
        del self._blocks[-depth:]
        self._rebuild()
        for each in replaced:
            self._append(_Mined(self._next(each.block.timestamp - self.head().timestamp)))
        return [each.receipt.transaction for each in replaced if each.receipt]

    def _next(self, seconds: int) -> Block:
        before = self.head()
        number, timestamp = before.number + 1, before.timestamp + seconds
        return Block(number, keccak(before.hash + number.to_bytes(8, "big") + timestamp.to_bytes(8, "big")), timestamp)

    def _rebuild(self) -> None:
        environment = pyrevm.Env(cfg=pyrevm.CfgEnv(chain_id=CHAIN_ID))
        self._evm = pyrevm.EVM(env=environment, gas_limit=_BLOCK_GAS, spec_id="CANCUN")
        for each in self._blocks:
            self._execute(each)

    def _append(self, mined: _Mined) -> _Mined:
        done = self._execute(mined)
        self._blocks.append(done)
        return done

    def _execute(self, mined: _Mined) -> _Mined:
        if mined.balance:
            self._evm.set_balance(*mined.balance)
        if not mined.transaction:
            return mined
        self._enter(mined.block)
        _, created = self._run(mined.transaction)
        result = self._evm.result
        assert result is not None
        identity = mined.block.hash
        logs = tuple(_log(each, mined.block.number, identity) for each in result.logs)
        return _Mined(
            mined.block,
            mined.transaction,
            receipt=Receipt(identity, mined.block, result.gas_used, created, logs),
        )

    def _enter(self, block: Block) -> None:
        environment = pyrevm.BlockEnv(number=block.number, timestamp=block.timestamp, gas_limit=_BLOCK_GAS, basefee=0)
        self._evm.set_block_env(environment)

    def _run(self, transaction: tuple[str, str | None, bytes, int]) -> tuple[bytes, str | None]:
        sender, to, data, value = transaction
        try:
            if to is None:
                return b"", to_checksum_address(self._evm.deploy(sender, data, value, TRANSACTION_GAS))
            return self._evm.message_call(sender, to, data, value=value, gas=TRANSACTION_GAS), None
        except (RuntimeError, OverflowError) as error:
            found = _REVERT.search(str(error))
            if found is None:
                raise ChainError(str(error)) from error
            raise RevertedError(f"a call of {to}", revert_reason(bytes.fromhex(found[1]))) from error


def _log(log: "pyrevm.Log", block: int, transaction: bytes) -> Log:
    topics, data = log.data
    return Log(to_checksum_address(log.address), tuple(map(bytes, topics)), bytes(data), block, transaction)
