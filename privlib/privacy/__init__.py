"""Differential privacy that is accounted, charged before it is spent, and argued for.

`Accountant` and `calibrate_noise` turn noise into ε and back, `PoissonSampler` and `RandomAllocationSampler` draw the
samples that the accounting assumes, `PrivacyLedger` keeps what was spent, and `train` puts them around a compiled step.
`privlib.privacy.audit` measures what a step really leaks;
`privlib.privacy.matrix` says which samplers have which analysis; `privlib.privacy.proof` argues, step by step, that the
compiled step has the sensitivity that the accountant is told, rounding included.
"""

from privlib.privacy.accounting import Accountant, Epsilon, calibrate_event, calibrate_noise
from privlib.privacy.checkpoint import CheckpointError
from privlib.privacy.errors import AccountingError, AuditError, CalibrationError
from privlib.privacy.ledger import PrivacyLedger
from privlib.privacy.loop import TrainingRun, train
from privlib.privacy.sensitivity import effective_noise_multiplier
from privlib.trusted.events import Event
from privlib.trusted.ledger import BudgetError, LedgerError
from privlib.trusted.sampling import PoissonSampler, RandomAllocationSampler

__all__ = [
    "Accountant",
    "AccountingError",
    "AuditError",
    "BudgetError",
    "CalibrationError",
    "CheckpointError",
    "Epsilon",
    "Event",
    "LedgerError",
    "PoissonSampler",
    "PrivacyLedger",
    "RandomAllocationSampler",
    "TrainingRun",
    "calibrate_event",
    "calibrate_noise",
    "effective_noise_multiplier",
    "train",
]
