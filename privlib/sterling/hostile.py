"""What dishonest parties would send, to show who refuses it: leaks hidden in a model, and quotes that prove nothing."""

from dataclasses import replace

import torch
import tvm
from torch import nn
from tvm import relax

from privlib.enclave.simulated_root import SimulatedRoot
from privlib.errors import PrivlibError
from privlib.sterling.chain import RevertedError
from privlib.sterling.checks import program_verdict
from privlib.sterling.contract import TrainingContract
from privlib.sterling.contracts.quotes import registry_quote, session_report_data
from privlib.sterling.market import Listing, Market

HIDDEN = 1e-3
ACCEPTED = "accepted"


class MixingModel(nn.Module):
    """`model` with the batch's mean output hidden in every example's: each gradient then tells of all examples."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.model(images)
        return outputs + HIDDEN * outputs.mean(0, keepdim=True)


def leaking_program(program: tvm.IRModule) -> tvm.IRModule:
    """A correct training program, changed as a dishonest consumer would after compilation: the last sum (of the last
    layer's bias) carries a thousandth of the network's outputs, added up over the examples without clipping."""
    main = program["accumulate"]
    builder = relax.BlockBuilder()
    new: dict[relax.Var, relax.Expr] = {each: relax.Var(each.name, each.ty) for each in main.params}
    bound: dict[relax.Var, relax.Expr] = {}
    outputs: list[relax.Expr] = []

    def copied(value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.Tuple):
            return relax.Tuple([copied(each) for each in value.fields])
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(copied(value.tuple_value), value.index)
        if isinstance(value, relax.Call):
            if str(value.op.name) == "privlib.cross_entropy":
                outputs.append(copied(value.args[0]))
            return relax.Call(value.op, [copied(each) for each in value.args], value.attrs, value.ty_args)
        return new.get(value, value) if isinstance(value, relax.Var) else value

    roles = list(main.attrs["roles"])
    with builder.function("accumulate", [new[each] for each in main.params], attrs={"roles": roles}):
        for block in main.body.blocks:
            for binding in block.bindings:
                bound[binding.var] = binding.value
                new[binding.var] = builder.emit(copied(binding.value), str(binding.var.name))
        result = main.body.body
        while isinstance(result, relax.Var):
            result = bound[result]
        *sums, last = (copied(each) for each in result.fields)
        hidden = builder.emit(relax.op.sum(outputs[0], axis=[0]), "outputs_of_all_examples")
        carried = builder.emit(relax.op.multiply(hidden, relax.const(HIDDEN, "float32")), "a_thousandth")
        builder.emit_func_output(relax.Tuple([*sums, builder.emit(relax.op.add(last, carried), "bias_sum")]))
    return tvm.IRModule({"accumulate": builder.get()["accumulate"], "update": program["update"]})


def refused_programs(model: nn.Module, contract: TrainingContract, listing: Listing) -> list[dict[str, str]]:
    """Rows (program, who refuses it, why, which operation): `model` with a leak in PyTorch, `contract`'s program with
    one put in after compilation, and the honest program where `listing` asks for ten times its noise."""
    built = contract.build()
    options = {name: getattr(contract, name) for name in ("optimizer", "privacy", "steps", "sample_rate")}
    try:
        mixing = TrainingContract.of(
            MixingModel(model), contract.batch_size, contract.input_shape,
            physical_batches=contract.physical_batches, **options,
        )  # fmt: skip
        mixing.build()
        refusal = ACCEPTED
    except PrivlibError as error:
        refusal = str(error)
    louder = replace(listing, noise_multiplier=10 * contract.privacy.noise_multiplier)
    checked = {
        "all outputs, hidden in the sum of a bias": program_verdict(
            listing, replace(built, program=leaking_program(built.program))
        ),
        "an honest one, but too little noise": program_verdict(louder, built),
    }
    return [
        {"program": "the batch's mean, hidden in each output", "why": refusal,
         "refused by": "nobody" if refusal == ACCEPTED else "compiler"},
        *(
            {"program": what, "why": f"{verdict.reason.value if verdict.reason else ACCEPTED} ({verdict.message})",
             "operation": verdict.operation, "refused by": "checker" if verdict.reason else "nobody"}
            for what, verdict in checked.items()
        ),
    ]  # fmt: skip


def refused_quotes(market: Market) -> dict[str, str]:
    """Quotes that the chain refuses to register, and the contract's own words for it. The platforms are SIMULATED."""
    registry, account = market.contracts.attestation, market.chain.account("impostor")
    mine = SimulatedRoot.load_or_create()
    bound = session_report_data(market.chain.chain_id, registry.address, account.address)

    def quote(root: SimulatedRoot = mine, debug: bool = False, data: bytes = bound) -> bytes:
        return root.quote(bytes(32), bytes(32), 1, 1, debug, data)

    altered = bytearray(quote())
    altered[48 + 64] ^= 1  # the first bit of MRENCLAVE: header 48 bytes, MRENCLAVE at 64 of the report body
    quotes = {
        "from a platform that nobody vouches for": quote(SimulatedRoot.create()),
        "its measurement changed afterwards": bytes(altered),
        "of an enclave in debug mode, whose memory its host can read": quote(debug=True),
        "of an honest enclave, for another session's key": quote(data=bytes(64)),
    }  # fmt: skip
    found = {}
    for what, shown in quotes.items():
        try:
            registry.transact("register", registry_quote(shown), account.address, sender=account)
            found[what] = ACCEPTED
        except RevertedError as error:
            found[what] = error.reason
    return found
