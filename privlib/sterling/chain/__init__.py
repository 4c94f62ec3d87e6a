"""The public ledger under the market: one interface, two chains that keep it.

EmbeddedChain   an EVM in this process (revm): the default, nothing to install, thousands of transactions a second
AnvilChain      a real node (Foundry's anvil), started and stopped for you, its state saved in a file

Both give accounts, transactions, events, finality after a fixed number of blocks, and, for tests, time travel and
reorganisations. What costs gas costs the same gas on both.
"""

from privlib.sterling.chain.account import Account
from privlib.sterling.chain.anvil import AnvilChain
from privlib.sterling.chain.base import Block, Chain, Log, Receipt
from privlib.sterling.chain.compiled import ContractCode, compile_vyper
from privlib.sterling.chain.contract import Contract, Event
from privlib.sterling.chain.embedded import EmbeddedChain
from privlib.sterling.chain.errors import ChainError, NodeError, ReorganisedError, RevertedError

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
