"""verify_program: an abstract interpretation of a training program, value by value, under the rules beside it.

Requirements
1. What `accumulate` returns are clipped sums, every one of them an argument of `update` with role "sum". (Not even
   something public: added up over the physical batches, it would tell how many there were.)
2. A sum becomes public only by `add_gaussian` with the key that is fresh at every update, each stream of it used once.
3. All that `update` returns is public by then.
4. Every operator has a rule; one without a rule is refused wherever it stands.
5. Sensitivity, noise and price are computed from the program alone and stay within the policy.

Trusted, not checked: that the driver draws each example independently with the policy's rate, gives an example one row
of one physical batch an update, pads with mask 0, refuses labels outside the classes, draws a key from the operating
system for every update and passes sums to nothing but `update`; and that lowering and kernels compute what the
operators say. Both are fixed by the enclave's measurement.
"""

import tvm
from tvm import relax

from privlib.sterling.verify import release
from privlib.sterling.verify.cost import privacy_cost
from privlib.sterling.verify.interpreter import Interpreter
from privlib.sterling.verify.kinds import Kind, PerExample, Private, Public, Refusal, Sum, Value
from privlib.sterling.verify.verdict import ProgramPolicy, Reason, Verdict

ACCUMULATE_ROLES = ("input", "labels", "mask", "parameter")
UPDATE_ROLES = ("key", "sum", "parameter", "momentum", "learning_rate")


def verify_program(ir_module: tvm.IRModule, policy: ProgramPolicy) -> Verdict:
    """Whether a training program (see `program.training_program`) is private enough for a provider's policy.

    Never raises for a program, whatever it is: the verdict names the reason and the operation to blame.
    """
    try:
        return _accepted(ir_module, policy)
    except Refusal as refusal:
        return Verdict(False, refusal.message, refusal.reason, refusal.operation)


def _accepted(module: tvm.IRModule, policy: ProgramPolicy) -> Verdict:
    if not isinstance(module, tvm.IRModule):
        raise Refusal(Reason.MALFORMED, "the module", f"expected an IRModule, got {type(module).__name__}")
    functions = {str(variable.name_hint): function for variable, function in module.functions_items()}
    if set(functions) != {"accumulate", "update"} or not all(isinstance(f, relax.Function) for f in functions.values()):
        message = f"expected the Relax functions accumulate and update, found {', '.join(sorted(functions)) or 'none'}"
        raise Refusal(Reason.MALFORMED, "the module", message)
    accumulate = Interpreter("accumulate", functions["accumulate"], ACCUMULATE_ROLES)
    sums = accumulate.run([])
    for value in sums:
        _may_be_summed(value)
    update = Interpreter("update", functions["update"], UPDATE_ROLES, accumulate.examples, accumulate.dtype)
    results = update.run(sums)
    for value in results:
        if not isinstance(value.kind, Public):
            raise _not_public(value.kind, "update")
    if not update.releases:
        raise Refusal(Reason.NO_NOISE, "update", "it adds no noise to any clipped sum, so nothing private is learned")
    weight = release.weigh(update.releases, policy, accumulate.examples, accumulate.dtype)
    one = privacy_cost(weight.noise_multiplier, policy.sample_rate, 1, policy.delta)
    whole = privacy_cost(weight.noise_multiplier, policy.sample_rate, policy.steps, policy.delta)
    if whole.epsilon > policy.epsilon:
        message = (
            f"{policy.steps} updates cost epsilon {whole.epsilon:.4g} at delta {policy.delta:g}; "
            f"{policy.epsilon:g} is allowed"
        )
        raise Refusal(Reason.BUDGET, update.releases[0].operation, message)
    return Verdict(
        True,
        f"{len(update.releases)} sums of examples clipped together, each released with noise of its own",
        released=tuple(update.names_of_results()),
        sensitivity=weight.sensitivity,
        sigma=weight.sigma,
        noise_multiplier=weight.noise_multiplier,
        step_epsilon=one.epsilon,
        total_epsilon=whole.epsilon,
        delta=policy.delta,
        steps=policy.steps,
    )


def _may_be_summed(value: Value) -> None:
    if isinstance(value.kind, Public):
        message = "it returns what is no sum of examples; added up over physical batches, it tells how many there were"
        raise Refusal(Reason.LEAK, "accumulate", message)
    if not isinstance(value.kind, Sum):
        raise _not_public(value.kind, "accumulate")


def _not_public(kind: Kind, function: str) -> Refusal:
    if isinstance(kind, Private):
        return Refusal(kind.reason, kind.operation, kind.message)
    if isinstance(kind, Sum):
        return Refusal(Reason.NO_NOISE, kind.parts[0].summed_by, f"{function} returns it as it is")
    if isinstance(kind, PerExample):
        return Refusal(Reason.LEAK, kind.operation, f"{function} returns its values, which belong to single examples")
    return Refusal(Reason.NOISE_SEEDED, function, "it returns the noise's key")
