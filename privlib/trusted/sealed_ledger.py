"""A dataset's ledger in an enclave's keeping: sealed to its measurement, stored by the host, counted by a register.

`charge` returns once the host has stored the sealed ledger and the register has gone on to it: from then on an older
one is refused (`privlib.trusted.sealing`), so that a crash loses work and never the charge.

To the measurement, not to the signer: a provider has looked at one measurement, and another enclave of the same signer
could write a ledger that has forgotten everything. So whoever gives the key to a second measurement gives a second
budget with it.
"""

from privlib.trusted.host import Host, HostRegister
from privlib.trusted.ledger import Budget, Ledger, LedgerError, first_line, parse
from privlib.trusted.sealing import SealedState, SealingKeys


class SealedLedger(Ledger):
    """The ledger of the dataset whose ciphertext has this SHA-256 (hexadecimal), its newest version, or a new one.

    text: all its lines. Raises RollbackError for an older version, SealError, LedgerError, HostError.
    """

    def __init__(self, host: Host, keys: SealingKeys, dataset: str, budget: Budget | None) -> None:
        self._host, self._label = host, f"ledger {dataset}"
        self._state = SealedState(keys, self._label, HostRegister(host, self._label), "measurement")
        found = self._state.open(host.load(self._label))
        self.text = first_line(budget) if found is None else found
        contents = parse(self._label, self.text)
        if contents.budget != budget or contents.torn:
            raise LedgerError(f"{self._label} has the budget {contents.budget}, not {budget}; a ledger keeps its own")
        super().__init__(self._label, contents)

    def _write(self, line: bytes) -> None:
        sealed = self._state.seal(self.text + line)
        self._host.store(self._label, sealed)
        self._state.commit(sealed)
        self.text += line
