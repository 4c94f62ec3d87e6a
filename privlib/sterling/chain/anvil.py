"""A chain on a real node: blocks with state roots, signed transactions, receipts, everything over JSON-RPC.

anvil runs the rules of Osaka, the fork that brought the P-256 precompile (EIP-7951).
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from eth_utils.address import to_checksum_address

from privlib.files import atomic_path
from privlib.progress import Progress, silent
from privlib.sterling.chain.account import Account
from privlib.sterling.chain.base import CONFIRMATIONS, GENESIS_SECONDS, TRANSACTION_GAS, At, Block, Chain, Log, Receipt
from privlib.sterling.chain.errors import ChainError, NodeError, RevertedError
from privlib.sterling.chain.node import Node, anvil_binary
from privlib.sterling.chain.rpc import Rpc, unhex

HARDFORK = "osaka"
_MINING_SECONDS = 120
_POLL_SECONDS = 0.002


class AnvilChain(Chain):
    """anvil, started here and stopped by `close` (or with this process, however it ends).

    state: file that holds the chain from one time to the next: read at the start where it exists, written by `save` and
    `close`. hardfork: the rules; "prague" is without the P-256 precompile. Raises NodeError where there is no anvil and
    none can be had.
    """

    def __init__(
        self,
        confirmations: int = CONFIRMATIONS,
        timestamp: int = GENESIS_SECONDS,
        *,
        state: Path | None = None,
        hardfork: str = HARDFORK,
        progress: Progress = silent,
    ) -> None:
        self.confirmations, self._state = confirmations, state
        options = ["--hardfork", hardfork, "--accounts", "0", "--timestamp", str(timestamp)]
        free = ["--gas-price", "0", "--block-base-fee-per-gas", "0", "--no-priority-fee"]
        self._node = Node(anvil_binary(progress), [*options, *free])
        self._rpc = Rpc(self._node.host, self._node.port)
        try:
            self.chain_id = int(self._rpc("eth_chainId"), 16)
            if state is not None and state.exists():
                self._load(state)
        except BaseException:
            self._stop()
            raise

    def head(self) -> Block:
        return _block(self._rpc("eth_getBlockByNumber", "latest", False))

    def block(self, number: int) -> Block:
        found = self._rpc("eth_getBlockByNumber", hex(number), False) if number >= 0 else None
        if found is None:
            raise ChainError(f"there is no block {number}; the newest is {self.head().number}")
        return _block(found)

    def balance(self, address: str, at: At = "latest") -> int:
        return int(self._rpc("eth_getBalance", address, self._tag(at)), 16)

    def set_balance(self, address: str, wei: int) -> None:
        self._rpc("anvil_setBalance", address, hex(wei))
        self.mine()

    def call(self, to: str, data: bytes, sender: str | None = None, at: At = "latest") -> bytes:
        return unhex(self._rpc("eth_call", _message(sender, to, data, 0), self._tag(at)))

    def send(self, sender: Account, to: str | None, data: bytes, value: int = 0) -> Receipt:
        self._rpc("eth_call", _message(sender.address, to, data, value), "pending")  # says why, where it is refused
        fields = {
            "chainId": self.chain_id,
            "nonce": int(self._rpc("eth_getTransactionCount", sender.address, "latest"), 16),
            "gas": TRANSACTION_GAS,
            "maxFeePerGas": 0,
            "maxPriorityFeePerGas": 0,
            "value": value,
            "data": data,
        }
        signed = sender.sign_transaction(fields if to is None else {**fields, "to": to})
        receipt, succeeded = self._mined(unhex(self._rpc("eth_sendRawTransaction", "0x" + signed.hex())))
        if not succeeded:
            raise RevertedError(f"transaction {receipt.transaction.hex()}", "")
        return receipt

    def receipt(self, transaction: bytes) -> Receipt | None:
        try:
            return self._receipt(transaction)[0]
        except LookupError:
            return None

    def logs(self, address: str, first_block: int = 0, at: At = "latest") -> list[Log]:
        if first_block > (last := int(self._tag(at), 16)):
            return []
        wanted = {"address": address, "fromBlock": hex(first_block), "toBlock": hex(last)}
        return [_log(each) for each in self._rpc("eth_getLogs", wanted)]

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self._rpc("evm_mine")

    def advance(self, seconds: int) -> None:
        if seconds < 1:
            raise ChainError(f"time on a chain only passes: {seconds} seconds")
        self._rpc("evm_setNextBlockTimestamp", self.head().timestamp + seconds)
        self.mine()

    def reorganise(self, depth: int) -> list[bytes]:
        self._require_depth(depth)
        newest = self.head().number
        numbers = range(newest - depth + 1, newest + 1)
        undone = [
            each for number in numbers for each in self._rpc("eth_getBlockByNumber", hex(number), False)["transactions"]
        ]
        self._rpc("anvil_reorg", depth, [])
        return [unhex(each) for each in undone]

    def save(self) -> None:
        """Write the chain to its state file. Raises ChainError where it has none."""
        if self._state is None:
            raise ChainError("this chain has no state file: start it with state=PATH")
        content = unhex(self._rpc("anvil_dumpState"))
        with atomic_path(self._state) as temporary:
            temporary.write_bytes(content)

    def close(self) -> None:
        try:
            if self._state is not None:
                self.save()
        finally:
            self._stop()

    def _stop(self) -> None:
        self._rpc.close()
        self._node.stop()

    def _load(self, state: Path) -> None:
        try:
            self._rpc("anvil_loadState", "0x" + state.read_bytes().hex())
        except (OSError, ChainError) as error:
            raise NodeError(f"{state} is not a state that anvil wrote ({error}); remove it to begin anew") from error

    def _tag(self, at: At) -> str:
        return hex((self.head() if at == "latest" else self.final()).number)

    def _mined(self, transaction: bytes) -> tuple[Receipt, bool]:
        """The receipt, once there is one: the node answers a little before its block is made."""
        deadline = time.monotonic() + _MINING_SECONDS
        while time.monotonic() < deadline:
            with suppress(LookupError):
                return self._receipt(transaction)
            time.sleep(_POLL_SECONDS)
        raise NodeError(f"transaction {transaction.hex()} was not mined in {_MINING_SECONDS} s")

    def _receipt(self, transaction: bytes) -> tuple[Receipt, bool]:
        """The receipt, and whether the transaction succeeded. Raises LookupError where there is none."""
        found = self._rpc("eth_getTransactionReceipt", "0x" + transaction.hex())
        block = found and self._rpc("eth_getBlockByHash", found["blockHash"], False)
        if not block:
            raise LookupError(transaction.hex())
        created = found["contractAddress"]
        receipt = Receipt(
            transaction,
            _block(block),
            int(found["gasUsed"], 16),
            to_checksum_address(created) if created else None,
            tuple(map(_log, found["logs"])),
        )
        return receipt, int(found["status"], 16) == 1


def _message(sender: str | None, to: str | None, data: bytes, value: int) -> dict[str, str]:
    parts = {"from": sender, "to": to, "data": "0x" + data.hex(), "value": hex(value), "gas": hex(TRANSACTION_GAS)}
    return {key: each for key, each in parts.items() if each is not None}


def _block(found: dict[str, Any]) -> Block:
    return Block(int(found["number"], 16), unhex(found["hash"]), int(found["timestamp"], 16))


def _log(found: dict[str, Any]) -> Log:
    return Log(
        to_checksum_address(found["address"]),
        tuple(map(unhex, found["topics"])),
        unhex(found["data"]),
        int(found["blockNumber"], 16),
        unhex(found["transactionHash"]),
    )
