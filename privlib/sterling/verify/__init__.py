"""Program verification: a sensitivity type checker over a training program before it is lowered.

Private inputs may reach a result only through per-example clip → sum → Gaussian noise at the declared norm and sigma;
anything else is refused with the operation named. The rules are the checker's own (after Reed & Pierce, ICFP 2010, and
the clipped-sum argument of Abadi et al. 2016): it knows the dialect's operators, not the compiler's passes.
"""

from privlib.sterling.verify.check import verify_program
from privlib.sterling.verify.cost import ORDERS, PrivacyCost, privacy_cost
from privlib.sterling.verify.program import program_digest, training_program
from privlib.sterling.verify.verdict import ProgramPolicy, Reason, Verdict

__all__ = [
    "ORDERS",
    "PrivacyCost",
    "ProgramPolicy",
    "Reason",
    "Verdict",
    "privacy_cost",
    "program_digest",
    "training_program",
    "verify_program",
]
