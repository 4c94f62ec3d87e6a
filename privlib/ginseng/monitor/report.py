"""What the proofs say and do not say, in words: counterexamples, the trusted parts, the monitor's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import z3

from privlib.ginseng.monitor.machine import size
from privlib.ginseng.monitor.proofs import Obligation, Outcome, ProofError, Step
from privlib.ginseng.monitor.table import CALLS, ENCLAVE_MAPS, PHASES, REGION_MAPS, SCALARS

CLAIM = "The monitor's transition model is machine-checked."


@dataclass(frozen=True)
class TrustedPart:
    """One part of the device that must be right, and what speaks for it; `where` names the module or the source."""

    part: str
    proved_here: str
    proved_elsewhere: str
    only_tested: str
    where: str

    @property
    def evidence(self) -> str:
        """All that speaks for it, each with its kind."""
        kinds = {
            "proved here": self.proved_here,
            "proved elsewhere": self.proved_elsewhere,
            "only tested": self.only_tested,
        }
        return "; ".join(f"{kind}: {text}" for kind, text in kinds.items() if text) or "nothing"


TRUSTED_PARTS: tuple[TrustedPart, ...] = (
    TrustedPart(
        "monitor: transition table",
        "invariants, two-state properties, step noninterference, for any number of enclaves and regions",
        "",
        "",
        "privlib.ginseng.monitor.proofs",
    ),
    TrustedPart(
        "monitor: the Python that executes the table",
        "",
        "",
        "same states and replies as the z3 terms on 10,000 random call sequences",
        "tests/ginseng/test_monitor_machine.py",
    ),
    TrustedPart(
        "AES-GCM hides and authenticates",
        "",
        "reduction to AES as a pseudorandom permutation (Iwata, Ohashi and Minematsu, CRYPTO 2012)",
        "",
        "assumed by the observer of the proofs",
    ),
    TrustedPart(
        "Tensor Encryption Core, RTL",
        "",
        "",
        "all NIST CAVP vectors with 96-bit IVs; against `cryptography`; equal to its Python model in every cycle",
        "tests/ginseng/test_tec_rtl.py, test_tec_model.py",
    ),
    TrustedPart(
        "no nonce used twice under a key: region table",
        "the monitor's versions never fall, and change with private content",
        "",
        "the RTL refuses a second write of a burst, a read before its write, a version's wrap",
        "privlib/ginseng/rtl/region_table.sv",
    ),
    TrustedPart("accelerator (VTA) data path", "", "", "bit-exact with an int8 reference", "the functional simulator"),
    TrustedPart(
        "time: no channel through the accelerator",
        "",
        "",
        "the core's control does not read data or keys; cycles are computed without data, and the addresses on the bus "
        "are the same for other images and weights",
        "tests/ginseng/test_attacks.py",
    ),
    TrustedPart(
        "device: boot, key derivation, channel, quotes",
        "",
        "",
        "measures exactly the modules it loads; wrong images, keys, old versions and altered memory are refused",
        "tests/ginseng/test_device.py, test_device_parts.py",
    ),
    TrustedPart("synthesis, boot ROM, DMA engine, power and probing attacks", "", "", "", "outside the model"),
)


def trusted_table() -> str:
    """The trusted parts as Markdown."""
    rows = ["| part | proved here | proved elsewhere | only tested | where |", "|---|---|---|---|---|"]
    for part in TRUSTED_PARTS:
        cells = (part.part, part.proved_here, part.proved_elsewhere, part.only_tested, part.where)
        rows.append("| " + " | ".join(cell or "-" for cell in cells) + " |")
    return "\n".join(rows)


def size_table() -> str:
    """Lines and bytes of the monitor, as Markdown."""
    sizes = size()
    total = (sum(lines for lines, _ in sizes.values()), sum(count for _, count in sizes.values()))
    rows = ["| file | lines | bytes |", "|---|---|---|"]
    rows += [f"| {name} | {lines} | {count} |" for name, (lines, count) in [*sizes.items(), ("total", total)]]
    return "\n".join(rows)


def explain(outcome: Outcome) -> str:
    """A counterexample for people: the claim, the call, the state and what changed; two runs for noninterference."""
    obligation = outcome.obligation
    if outcome.verdict != "refuted":
        return f"{obligation.call}: {obligation.claim}: {outcome.verdict}"
    model = _smallest_model(obligation)
    lines = [f"refuted: {obligation.claim}"]
    two_runs = len(obligation.steps) == 2
    if two_runs:
        lines.append(f"observer: {_who(_value(model, OBSERVER))}; two runs that look the same to it before the call")
    for run, step in enumerate(obligation.steps, start=1):
        shown = [f"{name}={_value(model, given)}" for name, given in step.arguments.items()]
        caller = _who(_value(model, step.before["running"]))
        lines.append(f"{f'run {run}: ' if two_runs else ''}{caller} calls {obligation.call}({', '.join(shown)})")
        lines += _states(model, step)
        lines.append(f"  answer: {_answer(model, obligation.call, step)}")
    return "\n".join(lines)


OBSERVER, ANY_ENCLAVE, ANY_REGION = z3.Ints("observer any_enclave any_region")


def _shown_terms(step: Step) -> list[tuple[str, Any]]:
    """Fields worth showing, with the terms of their indices: those the call and the claim speak of."""
    region_terms = [step.arguments[name] for name in ("region", "spied") if name in step.arguments] + [ANY_REGION]
    enclave_terms = [step.before["running"], OBSERVER, ANY_ENCLAVE]
    enclave_terms += [step.arguments[name] for name in ("enclave", "spied") if name in step.arguments]
    enclave_terms += [step.before["owner"][region] for region in region_terms]
    shown = [(name, term) for name in ENCLAVE_MAPS for term in enclave_terms]
    return shown + [(name, term) for name in REGION_MAPS for term in region_terms]


def _smallest_model(obligation: Obligation) -> z3.ModelRef:
    """A counterexample with as many zeros and small numbers as a greedy search finds."""
    solver = z3.Solver()
    solver.add(*obligation.assumed, z3.Not(obligation.goal))
    terms: list[Any] = [OBSERVER, ANY_ENCLAVE, ANY_REGION]
    for step in obligation.steps:
        terms += [*step.arguments.values(), *(step.before[name] for name in SCALARS)]
        terms += [step.before[name][index] for name, index in _shown_terms(step)]
    for term in terms:
        for value in range(4):
            if solver.check(term == value) == z3.sat:
                solver.add(term == value)
                break
    if solver.check() != z3.sat:
        raise ProofError("the obligation is not refuted: there is no counterexample to show")
    return solver.model()


def _value(model: z3.ModelRef, term: Any) -> int:
    return int(model.eval(term, model_completion=True).as_long())


def _who(number: int) -> str:
    return "the host" if number == 0 else f"enclave {number}"


def _answer(model: z3.ModelRef, call: str, step: Step) -> str:
    refused = _value(model, step.refused)
    if not refused:
        return f"served, value {_value(model, step.reply)}"
    guards = CALLS[call].guards
    return f"refused: {guards[refused - 1].name}" if refused <= len(guards) else f"refused by guard {refused}"


def _states(model: z3.ModelRef, step: Step) -> list[str]:
    """One line a field that is not zero throughout: its value before and, where it differs, after."""
    lines = []
    for name in SCALARS:
        lines += _change(name, _value(model, step.before[name]), _value(model, step.after[name]))
    seen = set()
    for name, index in _shown_terms(step):
        number = _value(model, index)
        if (name, number) not in seen:
            seen.add((name, number))
            before, after = (_value(model, state[name][z3.IntVal(number)]) for state in (step.before, step.after))
            lines += _change(f"{name}[{number}]", before, after)
    return lines


def _change(name: str, before: int, after: int) -> list[str]:
    def show(value: int) -> str:
        return PHASES[value] if name.startswith("phase") and 0 <= value < len(PHASES) else str(value)

    if before == after:
        return [f"    {name} = {show(before)}"] if before else []
    return [f"    {name} = {show(before)}  ->  {show(after)}"]
