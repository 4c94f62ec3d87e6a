"""A provider's policy as EVM bytecode, executed by `pyrevm` on state that is handed in and out.

One contract, alone in its world: no other account, no ether, no host. Its storage is a mapping of slots; an execution
takes the old one and returns the new one, so that what is kept, sealed and committed is plain data. Bytecode that makes
other contracts is refused, since their state would be lost.
"""

import re
from collections.abc import Mapping

import pyrevm

from privlib.errors import PrivlibError

GAS = 10_000_000
OWNER = "0x" + "51" * 20  # whoever deploys and calls: the enclave itself, no account of any chain
_ADDRESS = "0x" + "52" * 20
_SPECIFICATION = "CANCUN"
_SLOT = re.compile(r"(\d+): StorageSlot \{")  # in the journal's text: pyrevm lists storage nowhere else
_ERROR = bytes.fromhex("08c379a0")  # Error(string), Solidity ABI
Slots = dict[int, int]


class PolicyProgramError(PrivlibError):
    """Bytecode that cannot be deployed, runs out of gas, or does more than keep its own storage."""


class PolicyRefusal(PrivlibError):
    """The policy says no; the text is the reason it gives."""


def deploy(code: bytes, timestamp: int = 0) -> tuple[bytes, Slots]:
    """(run-time bytecode, storage) after deployment code with its arguments has run. Raises PolicyProgramError."""
    machine = _machine(timestamp)
    try:
        address = machine.deploy(OWNER, code, gas=GAS)
    except (RuntimeError, OverflowError) as error:
        raise PolicyProgramError(f"the policy does not deploy: {error}") from None
    # revm pads what it has analysed with zeros; zeros of the code's own read as zeros behind its end all the same.
    runtime = bytes(machine.get_code(address) or b"").rstrip(b"\0")
    if not runtime:
        raise PolicyProgramError("the policy's deployment leaves no code; give deployment code, not the run-time part")
    return runtime, _slots(machine, address, {})


def execute(runtime: bytes, slots: Mapping[int, int], data: bytes, timestamp: int) -> tuple[bytes, Slots]:
    """(what a call returns, the storage after it). data: selector and arguments; timestamp: block.timestamp.

    Raises PolicyRefusal where it reverts, PolicyProgramError where it fails otherwise.
    """
    machine = _machine(timestamp)
    machine.insert_account_info(_ADDRESS, pyrevm.AccountInfo(nonce=1, code=runtime))
    for slot, value in slots.items():
        machine.insert_account_storage(_ADDRESS, slot, value)
    try:
        output = machine.message_call(OWNER, _ADDRESS, calldata=data, gas=GAS)
    except (RuntimeError, OverflowError) as error:
        raise _failure(str(error)) from None
    return bytes(output), _slots(machine, _ADDRESS, slots)


def _machine(timestamp: int) -> pyrevm.EVM:
    block = pyrevm.BlockEnv(number=1, timestamp=timestamp, gas_limit=GAS)
    return pyrevm.EVM(env=pyrevm.Env(block=block), gas_limit=GAS, spec_id=_SPECIFICATION)


def _slots(machine: pyrevm.EVM, address: str, before: Mapping[int, int]) -> Slots:
    journal = machine.journal_str
    strangers = {each.lower() for each in machine.journal_state} - {address.lower(), OWNER, "0x" + "0" * 40}
    if any(bytes(machine.get_code(each) or b"").rstrip(b"\0") for each in strangers):
        raise PolicyProgramError("the policy makes other contracts, whose state would be lost; keep it in one")
    touched = {int(each) for each in _SLOT.findall(journal)} | set(before)
    values = {slot: int(machine.storage(address, slot)) for slot in sorted(touched)}
    return {slot: value for slot, value in values.items() if value}


def _failure(text: str) -> PrivlibError:
    """Revert { gas_used: …, output: 0x… }, with Error(string) in it where a reason was given."""
    found = re.match(r"Revert \{.*output: 0x([0-9a-f]*)", text)
    if found is None:
        return PolicyProgramError(f"the policy failed: {text[:200]}")
    output = bytes.fromhex(found[1])
    if not output.startswith(_ERROR) or len(output) < 68:
        return PolicyRefusal("the policy refuses, and gives no reason")
    length = int.from_bytes(output[36:68], "big")
    return PolicyRefusal(f"the policy refuses: {output[68 : 68 + min(length, 200)].decode(errors='replace')}")
