"""The public ledger under the market: one interface, two chains that keep it.

EmbeddedChain   an EVM in this process (py-evm): the default, nothing to install
AnvilChain      a real node (Foundry's anvil), started and stopped for you, its state saved in a file

Both give accounts, transactions, events, finality after a fixed number of blocks, and, for tests, time travel and
reorganisations. What costs gas costs the same gas on both.
"""

import sys

_RECURSION_LIMIT = sys.getrecursionlimit()

from privlib.sterling.chain.account import Account  # noqa: E402
from privlib.sterling.chain.anvil import AnvilChain  # noqa: E402
from privlib.sterling.chain.base import Block, Chain, Log, Receipt  # noqa: E402
from privlib.sterling.chain.compiled import ContractCode, compile_vyper  # noqa: E402
from privlib.sterling.chain.contract import Contract, Event  # noqa: E402
from privlib.sterling.chain.embedded import EmbeddedChain  # noqa: E402
from privlib.sterling.chain.errors import ChainError, NodeError, ReorganisedError, RevertedError  # noqa: E402

# py-evm and what it imports raise it for 1,024 nested calls, where ours nest three or four deep: a limit of 100,000
# would let other code of this process run out of stack instead of raising RecursionError.
sys.setrecursionlimit(_RECURSION_LIMIT)

__all__ = [
    "Account",
    "AnvilChain",
    "Block",
    "Chain",
    "ChainError",
    "Contract",
    "ContractCode",
    "EmbeddedChain",
    "Event",
    "Log",
    "NodeError",
    "Receipt",
    "ReorganisedError",
    "RevertedError",
    "compile_vyper",
]
