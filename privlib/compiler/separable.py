"""A pass for inference: a depthwise convolution used only by a 1×1 convolution joins it as one `privlib.separable`."""

import tvm
from tvm import relax

from privlib.compiler import dialect
from privlib.compiler.dialect import conv_shape, shape_of


def join_separable(module: tvm.IRModule) -> tvm.IRModule:
    """The pass: main in the (fused) dialect → main with separable convolutions joined."""
    main = module["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    uses: dict[relax.Var, int] = {main.body.body: 1}
    for binding in bindings:
        for arg in getattr(binding.value, "args", []):
            if isinstance(arg, relax.Var):
                uses[arg] = uses.get(arg, 0) + 1
    depthwise = {b.var: b.value for b in bindings if _is_depthwise(b.value) and uses.get(b.var, 0) == 1}
    builder = relax.BlockBuilder()
    values: dict[relax.Var, relax.Expr] = {p: relax.Var(p.name, p.ty) for p in main.params}

    def get(expression: relax.Expr) -> relax.Expr:
        if isinstance(expression, relax.Tuple):
            return relax.Tuple([get(part) for part in expression.fields])
        return values.get(expression, expression) if isinstance(expression, relax.Var) else expression

    with builder.function("main", [values[p] for p in main.params], attrs=dict(main.attrs.items())):
        with builder.dataflow():
            for binding in bindings:
                call = binding.value
                if binding.var in depthwise and _consumer_joins(bindings, binding.var):
                    continue
                if _is_pointwise(call) and call.args[0] in depthwise:
                    joined = _join(depthwise[call.args[0]], call)
                    call = relax.Call(joined.op, joined.args, joined.attrs)
                values[binding.var] = builder.emit(_with_arguments(call, get))
            output = builder.emit_output(get(main.body.body))
        builder.emit_func_output(output)
    return builder.get()


def _with_arguments(value: relax.Expr, get: object) -> relax.Expr:
    if isinstance(value, relax.Call):
        return relax.Call(value.op, [get(arg) for arg in value.args], value.attrs, value.ty_args)  # type: ignore[operator]
    return get(value) if isinstance(value, relax.Var) else value  # type: ignore[operator]


def _consumer_joins(bindings: list[relax.Binding], variable: relax.Var) -> bool:
    return any(_is_pointwise(b.value) and b.value.args[0].same_as(variable) for b in bindings)


def _convolution(value: relax.Expr) -> "dialect.Conv2d | None":
    if isinstance(value, relax.Call) and str(value.op.name) == "privlib.conv2d" and not value.attrs["nchw"]:
        return conv_shape(shape_of(value.args[0]), shape_of(value.args[1]), value.attrs)
    return None


def _is_depthwise(value: relax.Expr) -> bool:
    shape = _convolution(value)
    return shape is not None and shape.depthwise and not value.attrs["residual"]


def _is_pointwise(value: relax.Expr) -> bool:
    shape = _convolution(value)
    return shape is not None and shape.pointwise


def _join(first: relax.Call, second: relax.Call) -> relax.Call:
    """(x, filters, [inner bias], weight, [bias], [residual]) with the attributes of both."""
    attributes = {key: first.attrs[key] for key in ("stride", "padding", "dilation", "groups", "nchw")}
    attributes |= {"inner_bias": first.attrs["bias"], "inner_activation": first.attrs["activation"]}
    attributes |= {key: second.attrs[key] for key in ("bias", "residual", "activation")}
    return dialect.call("separable", [*first.args, *second.args[1:]], **attributes)
