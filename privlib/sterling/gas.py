"""Gas by action: a chain that keeps count of what every transaction used, and what that costs at a gas price.

Gas is exact for a transaction; between runs it varies a little, because a byte of calldata costs 4 gas where it is zero
and 16 where it is not (EIP-2028), and keys, hashes and signatures are random.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from eth_utils.abi import function_abi_to_4byte_selector

from privlib.sterling.chain import Account, Block, Chain, Log, Receipt
from privlib.sterling.chain.base import At
from privlib.sterling.contracts.market import MarketContracts

ZERO_BYTE_GAS = 12
"""What a zero byte of calldata saves."""
LEVEL, METHOD = 0.9999, "zero bytes among random calldata, six standard deviations"


@dataclass(frozen=True)
class Use:
    """A transaction that was mined: to (None: a deployment), its calldata, and the gas that it used."""

    to: str | None
    data: bytes = field(repr=False)
    gas: int

    @property
    def spread(self) -> float:
        """Gas by which it may differ in another run with other random bytes: six standard deviations of the number of
        zeros among bytes that are not zero here, as if all of those were random."""
        random = len(self.data) - self.data.count(0)
        return 6 * ZERO_BYTE_GAS * math.sqrt(random * 255) / 256


class MeteredChain(Chain):
    """`chain`, with every transaction of it counted in `uses`."""

    def __init__(self, chain: Chain) -> None:
        self.chain_id, self.confirmations, self.uses = chain.chain_id, chain.confirmations, list[Use]()
        self._chain = chain

    def send(self, sender: Account, to: str | None, data: bytes, value: int = 0) -> Receipt:
        receipt = self._chain.send(sender, to, data, value)
        self.uses.append(Use(to, data, receipt.gas_used))
        return receipt

    def head(self) -> Block:
        return self._chain.head()

    def block(self, number: int) -> Block:
        return self._chain.block(number)

    def balance(self, address: str, at: At = "latest") -> int:
        return self._chain.balance(address, at)

    def set_balance(self, address: str, wei: int) -> None:
        self._chain.set_balance(address, wei)

    def call(self, to: str, data: bytes, sender: str | None = None, at: At = "latest") -> bytes:
        return self._chain.call(to, data, sender, at)

    def receipt(self, transaction: bytes) -> Receipt | None:
        return self._chain.receipt(transaction)

    def logs(self, address: str, first_block: int = 0, at: At = "latest") -> list[Log]:
        return self._chain.logs(address, first_block, at)

    def mine(self, blocks: int = 1) -> None:
        self._chain.mine(blocks)

    def advance(self, seconds: int) -> None:
        self._chain.advance(seconds)

    def reorganise(self, depth: int) -> list[bytes]:
        return self._chain.reorganise(depth)

    def close(self) -> None:
        self._chain.close()


def by_action(uses: Iterable[Use], contracts: MarketContracts) -> dict[str, list[Use]]:
    """Transactions by what they call, such as "escrow.request", in the order of first use; deployments are left out."""
    names = {
        (contract.address, function_abi_to_4byte_selector(entry)): f"{name}.{entry['name']}"
        for name, contract in vars(contracts).items()
        for entry in contract.code.abi
        if entry["type"] == "function"
    }
    found: dict[str, list[Use]] = {}
    for use in uses:
        if use.to is not None:
            found.setdefault(names[use.to, use.data[:4]], []).append(use)
    return found


def cost(gas: float, gwei: float) -> float:
    """What `gas` costs in ether at a gas price in gwei (10⁻⁹ ether a unit)."""
    return gas * gwei * 1e-9
