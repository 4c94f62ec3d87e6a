"""`privlib verify-release`: what a release claims, line by line, and what each claim hangs from."""

import argparse
import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from privlib.suite import quotes

if TYPE_CHECKING:
    from privlib.enclave.policy import QuotePolicy
    from privlib.enclave.release import DatasetClaim, VerifiedRelease

_SELF_ASSERTED = "self-asserted"


def verify(options: argparse.Namespace) -> int:
    """Print the claims with their anchors; 0 when the release is accepted.

    Raises AttestationError where the quote does not hold under the root and the policy, ReleaseError where something
    was altered or does not follow, ParameterError for options and files that cannot be read.
    """
    from privlib.enclave.release import verify_release

    policy = quotes.policy(options)
    release = verify_release(options.file, policy, options.time, quotes.collateral(options))
    print(text(release, policy, options.pld))
    named = policy.measurements or policy.signers
    print(f"{'verdict':<14}accepted" + ("" if named else ", for whoever trusts the code of this measurement"))
    return 0


def text(release: "VerifiedRelease", policy: "QuotePolicy", pld: bool = False) -> str:
    """One claim a line, and its trust anchor."""
    quote = release.quote
    compared = "the one you named" if policy.measurements else "compared with none: name the one that you expect"
    signer = "the one you named" if policy.signers else "not compared"
    key = "the enclave's key, which the quote binds"
    program = "the measurement, by the image's manifest" if release.program_in_image else key
    lines = [
        ("root", quote.anchor, "you" if policy.root is not None else "Intel's, built in"),
        ("quote", f"{quote.tee}, TCB status {quote.tcb_status}", "the root"),
        ("hardware", "none: SIMULATED" if quote.simulated else "yes", "the root"),
        ("measurement", f"{quote.measurement.hex()} ({compared})", "the root"),
        ("signer", f"{quote.signer.hex() if quote.signer else '-'} ({signer})", "the root"),
        ("program", release.program, program),
        ("model", f"{release.model}, of the parameters in the file", key),
        ("updates", str(release.updates), key),
    ]
    for number, claim in enumerate(release.datasets, 1):
        lines += _dataset(f"dataset {number}", claim, key, pld)
    issued = f"{datetime.fromtimestamp(release.issued, UTC):%Y-%m-%d %H:%M:%S} UTC"
    lines.append(("issued", issued, f"{_SELF_ASSERTED} (the host's clock)"))
    return "\n".join(f"{name:<14}{value}\n{'':<14}  anchor: {anchor}" for name, value, anchor in lines)


def _dataset(name: str, claim: "DatasetClaim", key: str, pld: bool) -> list[tuple[str, str, str]]:
    limit = "no limit" if claim.terms.epsilon is None else f"limit {claim.terms.epsilon:g}"
    spent = "without bound" if claim.epsilon == math.inf else f"{claim.epsilon:.6g}"
    cost = f"ε = {spent} at δ = {claim.delta:g}, {limit} (Rényi bound, computed anew from the ledger)"
    lines = [
        (name, f"{claim.dataset}, of its ciphertext", key),
        ("  ε, δ", cost, key),
        ("  ledger", claim.ledger_sha256, key),
    ]
    for event in claim.events:
        facts = ", ".join(f"{field} {value}" for field, value in event.to_json().items() if field != "neighbouring")
        lines.append(("  event", facts, key))
    if pld:
        from privlib.privacy.accounting import accounted

        lines.append(("  tighter", str(accounted(claim.events, claim.delta)), "computed here from the events"))
    return lines
