"""A chain in this process: py-evm runs the transactions, and this module keeps the blocks.

Every block keeps its state's root, as on a real chain, so that an older state can be read, and a reorganisation goes
back to one. What it leaves out is what makes a network: no signatures on transactions (whoever holds the Account
object sends), no consensus, no peers. The rules are Prague's, and beside them Osaka's P-256 precompile
(EIP-7951).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from eth.abc import ComputationAPI
from eth.constants import BLANK_ROOT_HASH
from eth.db.atomic import AtomicDB
from eth.exceptions import Revert
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.prague.computation import PragueComputation
from eth.vm.forks.prague.state import PragueState, PragueTransactionExecutor
from eth.vm.forks.prague.transactions import PragueTransactionBuilder
from eth.vm.spoof import SpoofTransaction
from eth_typing import Address, BlockNumber, Hash32
from eth_utils.address import to_canonical_address, to_checksum_address
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

from privlib.sterling.chain.account import Account
from privlib.sterling.chain.base import CONFIRMATIONS, GENESIS_SECONDS, TRANSACTION_GAS, At, Block, Chain, Log, Receipt
from privlib.sterling.chain.errors import ChainError, RevertedError, revert_reason
from privlib.sterling.chain.p256 import P256_ADDRESS, p256_verify

CHAIN_ID = 31337
_BLOCK_GAS = 30_000_000
_NOBODY = Address(bytes(20))
_HASH = Hash32(bytes(32))


class _Computation(PragueComputation):
    _precompiles = {**PragueComputation.get_precompiles(), P256_ADDRESS: p256_verify}  # noqa: RUF012 - as py-evm has it


class _State(PragueState):
    computation_class = _Computation


@dataclass(frozen=True)
class _Mined:
    """A block, the root of the state after it, and the receipt of its transaction, if there is one."""

    block: Block
    root: Hash32
    receipt: Receipt | None = None


class EmbeddedChain(Chain):
    """A chain that lives as long as this object.

    confirmations: blocks until a block is final. timestamp: Unix seconds of the first block. p256: whether there is a
    P-256 precompile, as from Osaka on.
    """

    def __init__(
        self, confirmations: int = CONFIRMATIONS, timestamp: int = GENESIS_SECONDS, *, p256: bool = True
    ) -> None:
        self.chain_id, self.confirmations = CHAIN_ID, confirmations
        self._rules: type[PragueState] = _State if p256 else PragueState
        self._database = AtomicDB()
        self._blocks = [_Mined(Block(0, keccak(b"privlib embedded chain"), timestamp), BLANK_ROOT_HASH)]

    def head(self) -> Block:
        return self._blocks[-1].block

    def block(self, number: int) -> Block:
        if not 0 <= number < len(self._blocks):
            raise ChainError(f"there is no block {number}; the newest is {len(self._blocks) - 1}")
        return self._blocks[number].block

    def balance(self, address: str, at: At = "latest") -> int:
        return self._state(self._at(at)).get_balance(to_canonical_address(address))

    def set_balance(self, address: str, wei: int) -> None:
        state = self._state(self._blocks[-1])
        state.set_balance(to_canonical_address(address), wei)
        self._append(self._next(1, b"balance", address.encode(), str(wei).encode()), state)

    def call(self, to: str, data: bytes, sender: str | None = None, at: At = "latest") -> bytes:
        who = to_canonical_address(sender) if sender else _NOBODY
        return self._run(self._state(self._at(at)), who, to, data, 0)[0].output

    def send(self, sender: Account, to: str | None, data: bytes, value: int = 0) -> Receipt:
        who = to_canonical_address(sender.address)
        nonce = self._state(self._blocks[-1]).get_nonce(who)
        transaction = keccak(b"".join((who, nonce.to_bytes(8, "big"), str((to, value)).encode(), data)))
        block = self._next(1, transaction)
        state = self._state(self._blocks[-1], block)
        computation, gas = self._run(state, who, to, data, value)
        created = to_checksum_address(computation.msg.storage_address) if to is None else None
        logs = tuple(_logs(computation, block.number, transaction))
        receipt = Receipt(transaction, block, gas, created, logs)
        self._append(block, state, receipt)
        return receipt

    def receipt(self, transaction: bytes) -> Receipt | None:
        found = (each.receipt for each in reversed(self._blocks))
        return next((each for each in found if each and each.transaction == transaction), None)

    def logs(self, address: str, first_block: int = 0, at: At = "latest") -> list[Log]:
        blocks = self._blocks[first_block : self._at(at).block.number + 1]
        logs = (log for each in blocks if each.receipt for log in each.receipt.logs)
        return [log for log in logs if log.address == address]

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self._append(self._next(1))

    def advance(self, seconds: int) -> None:
        if seconds < 1:
            raise ChainError(f"time on a chain only passes: {seconds} seconds")
        self._append(self._next(seconds))

    def reorganise(self, depth: int) -> list[bytes]:
        self._require_depth(depth)
        replaced = self._blocks[-depth:]
        del self._blocks[-depth:]
        for each in replaced:
            seconds = each.block.timestamp - self.head().timestamp
            self._append(self._next(seconds, b"another branch", each.block.hash))
        return [each.receipt.transaction for each in replaced if each.receipt]

    def _at(self, at: At) -> _Mined:
        return self._blocks[-1] if at == "latest" else self._blocks[self.final().number]

    def _next(self, seconds: int, *content: bytes) -> Block:
        before = self.head()
        number, timestamp = before.number + 1, before.timestamp + seconds
        header = (before.hash, number.to_bytes(8, "big"), timestamp.to_bytes(8, "big"), *content)
        return Block(number, keccak(b"".join(header)), timestamp)

    def _append(self, block: Block, state: PragueState | None = None, receipt: Receipt | None = None) -> None:
        root = self._blocks[-1].root
        if state is not None:
            state.persist()
            root = state.state_root
        self._blocks.append(_Mined(block, root, receipt))

    def _state(self, after: _Mined, block: Block | None = None) -> PragueState:
        """The state after a block, and the block (default: the same) whose number and time a transaction sees."""
        block = block or after.block
        context = ExecutionContext(
            coinbase=_NOBODY,
            timestamp=block.timestamp,
            block_number=BlockNumber(block.number),
            difficulty=0,
            mix_hash=_HASH,
            gas_limit=_BLOCK_GAS,
            prev_hashes=[],
            chain_id=CHAIN_ID,
            base_fee_per_gas=0,
            excess_blob_gas=0,
        )
        return self._rules(self._database, context, after.root)

    def _run(
        self, state: PragueState, sender: Address, to: str | None, data: bytes, value: int
    ) -> tuple[ComputationAPI, int]:
        """A transaction's outcome and its gas. Raises RevertedError, ChainError."""
        fields: dict[str, Any] = {
            "chain_id": CHAIN_ID,
            "nonce": state.get_nonce(sender),
            "max_priority_fee_per_gas": 0,
            "max_fee_per_gas": 0,
            "gas": TRANSACTION_GAS,
            "to": to_canonical_address(to) if to is not None else b"",
            "value": value,
            "data": data,
            "access_list": [],
        }
        unsigned = PragueTransactionBuilder.new_unsigned_dynamic_fee_transaction(**fields)
        transaction = SpoofTransaction(unsigned, from_=sender)
        what = f"a call of {to}" if to is not None else "a deployment"
        try:
            computation = state.apply_transaction(transaction)  # type: ignore[arg-type]  # as py-evm's own calls do
        except ValidationError as error:
            raise ChainError(f"{what}: {error}") from error
        if computation.is_error:
            reverted = isinstance(computation.error, Revert)
            raise RevertedError(what, revert_reason(computation.output) if reverted else repr(computation.error))
        used = TRANSACTION_GAS - computation.get_gas_remaining()
        refund = PragueTransactionExecutor.calculate_gas_refund(computation, used)
        return computation, used - refund + computation.data_floor_gas


def _logs(computation: ComputationAPI, block: int, transaction: bytes) -> Iterable[Log]:
    for address, topics, data in computation.get_log_entries():
        yield Log(
            to_checksum_address(address), tuple(each.to_bytes(32, "big") for each in topics), data, block, transaction
        )
