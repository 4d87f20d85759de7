"""Every op in standard ONNX operators: what runs where the op library is absent, and what its kernels are held to."""

from typing import Any

import onnx
from onnx import helper

from export.ops.contract import DOMAIN, OVERRIDE, Op

OLDEST_OPSET = 23
"""RMSNormalization is an operator from here on."""


class _Body:
    """Collects the nodes of one function. Their names tell in profiles what they were inlined from."""

    def __init__(self, op: str) -> None:
        self._op = op
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, inputs: str, output: str, **attributes: Any) -> None:
        """Append a node; `inputs` are names between spaces."""
        self.nodes.append(helper.make_node(op, inputs.split(), [output], name=f"{self._op}/{output}", **attributes))

    def number(self, output: str, value: float) -> None:
        """Name a number."""
        self.add("Constant", "", output, value_float=value)

    def attribute(self, name: str, output: str) -> None:
        """Name the value of one of the op's own float attributes."""
        node = helper.make_node("Constant", [], [output])
        reference = node.attribute.add()
        reference.name, reference.ref_attr_name = "value_float", name
        reference.type = onnx.AttributeProto.FLOAT
        self.nodes.append(node)

    def exact(self, names: str) -> None:
        """Name the float32 form of each tensor, `NAME_f`."""
        for name in names.split():
            self.add("Cast", name, f"{name}_f", to=onnx.TensorProto.FLOAT)


def plain_body(
    op: Op, opset: int, *, override: bool = False, erases: bool = True, squashes: bool = False, taps: int = 1
) -> onnx.FunctionProto:
    """Return an op as a function, for models of opset `opset`.

    A file has one body of each op, made for how its nodes use it: with the override or without, with erasing or
    without, with targets that are squashed or linear, over `taps` tokens.

    Raises:
        ValueError: the opset is older than the operators that the bodies use.
    """
    if opset < OLDEST_OPSET:
        raise ValueError(f"the bodies need opset {OLDEST_OPSET} or newer, got {opset}")
    body = _Body(op.name)
    body.add("Constant", "", "last", value_ints=[-1])
    body.add("Constant", "", "before_last", value_ints=[-2])
    body.number("zero", 0.0)
    body.exact("state")
    state, read, context = "state", "state_f", "context"
    if "new_state" in op.outputs:
        _rewrite(body, override=override, erases=erases, squashes=squashes)
        state, read, context = "new_state", "new_state_f", "next_context"
    if "compressed" in op.outputs:
        weight = next(name for name in op.inputs if name in ("weight", "compress_weight"))
        body.exact(f"{weight} norm_weight" + (" history" if op.over_tokens else ""))
        if op.over_tokens:
            _compress_tokens(body, read, f"{weight}_f", taps)
        else:
            body.add("Mul", f"{read} {weight}_f", "weighed")
            body.add("ReduceSum", "weighed last", "compressed_f", keepdims=0)
        _norm(body)
        body.add("CastLike", f"compressed_f {state}", "compressed")
        body.add("CastLike", f"context_norm {state}", context)
    return helper.make_function(
        DOMAIN,
        op.name,
        op.arguments(override=override),
        list(op.outputs),
        body.nodes,
        [helper.make_opsetid("", opset)],
        attributes=op.attributes,
    )


def _rewrite(body: _Body, *, override: bool, erases: bool, squashes: bool) -> None:
    body.exact("direction context target_input gate_weight gate_bias target_weight target_bias")
    body.attribute("direction_eps", "eps")
    body.number("two", 2.0)
    # k = h / sqrt(|h|^2 + eps^2)
    body.add("Mul", "direction_f direction_f", "squares")
    body.add("ReduceSum", "squares last", "square", keepdims=1)
    body.add("Mul", "eps eps", "eps_square")
    body.add("Add", "square eps_square", "guarded")
    body.add("Sqrt", "guarded", "length")
    body.add("Div", "direction_f length", "k")
    body.add("Sqrt", "square", "direction_norm_column")
    body.add("Squeeze", "direction_norm_column last", "direction_norm")
    # beta = 2 sigmoid(W_b c + b_b)
    body.add("Transpose", "gate_weight_f", "gate_weight_t", perm=[1, 0])
    body.add("MatMul", "context_f gate_weight_t", "gate_product")
    body.add("Add", "gate_product gate_bias_f", "gate_logit_column")
    body.add("Sigmoid", "gate_logit_column", "gate_half")
    body.add("Mul", "gate_half two", "gate")
    body.add("Squeeze", "gate_logit_column last", "gate_logit")
    # v = W_v u + b_v
    body.add("Transpose", "target_weight_f", "target_weight_t", perm=[1, 0])
    body.add("MatMul", "target_input_f target_weight_t", "target_product")
    body.add("Add", "target_product target_bias_f", "target_linear" if squashes else "target")
    if squashes:
        body.attribute("target_scale", "scale")
        body.add("Sigmoid", "target_linear", "target_half")
        body.add("Mul", "target_half scale", "target")
    # k^T X
    body.add("Unsqueeze", "k before_last", "k_row")
    body.add("MatMul", "k_row state_f", "readout_row")
    body.add("Squeeze", "readout_row before_last", "readout")
    # X' = X + beta k (v - k^T X)^T
    beta, written, erased = "gate", "target", "readout"
    if override:
        beta, written, erased = _override(body)
    body.add("Squeeze", f"{beta} last", "beta")
    if erases:
        body.add("Sub", f"{written} {erased}", "difference")
    body.add("Mul", f"{'difference' if erases else written} {beta}", "step")
    body.add("Unsqueeze", "k last", "k_column")
    body.add("Unsqueeze", "step before_last", "step_row")
    body.add("Mul", "k_column step_row", "update")
    body.add("Add", "state_f update", "new_state_sum")
    body.add("CastLike", "new_state_sum state", "new_state")
    body.add("Cast", "new_state", "new_state_f", to=onnx.TensorProto.FLOAT)


def _override(body: _Body) -> tuple[str, str, str]:
    """Change the gate; return the names of the gate, what is written and what is erased, all with a last axis."""
    columns = ("scale", "shift", "low", "high", "erase", "write")
    for index, column in enumerate(columns):
        body.add("Constant", "", f"column_{column}", value_ints=[index])
        body.add("Gather", f"{OVERRIDE} column_{column}", f"override_{column}", axis=-1)
    body.add("Mul", "override_scale gate", "gate_scaled")
    body.add("Add", "gate_scaled override_shift", "gate_shifted")
    body.add("Equal", "override_scale zero", "gate_is_set")
    body.add("Where", "gate_is_set override_shift gate_shifted", "gate_changed")
    body.add("Less", "gate_changed override_low", "gate_below")
    body.add("Where", "gate_below override_low gate_changed", "gate_raised")
    body.add("Greater", "gate_raised override_high", "gate_above")
    body.add("Where", "gate_above override_high gate_raised", "gate_cut")
    for factor, values in (("write", "target"), ("erase", "readout")):
        body.add("Equal", f"override_{factor} zero", f"no_{factor}")
        body.add("Mul", f"{values} override_{factor}", f"{factor}_weighed")
        body.add("Where", f"no_{factor} zero {factor}_weighed", f"{factor}_part")
    return "gate_cut", "write_part", "erase_part"


def _compress_tokens(body: _Body, state: str, weight: str, taps: int) -> None:
    """Sum the weighed states of the last tokens, tap by tap: the window holds them behind each other."""
    body.add("Concat", f"history_f {state}", "window", axis=1)
    body.add("Shape", "state", "tokens", start=1, end=2)
    body.add("Constant", "", "token_axis", value_ints=[1])
    total = ""
    for tap in range(taps):
        body.add("Constant", "", f"tap_{tap}", value_int=tap)
        body.add("Constant", "", f"begin_{tap}", value_ints=[tap])
        body.add("Gather", f"{weight} tap_{tap}", f"weight_{tap}", axis=2)
        body.add("Add", f"tokens begin_{tap}", f"end_{tap}")
        body.add("Slice", f"window begin_{tap} end_{tap} token_axis", f"seen_{tap}")
        body.add("Mul", f"seen_{tap} weight_{tap}", f"weighed_{tap}")
        if total:
            body.add("Add", f"{total} weighed_{tap}", f"total_{tap}")
        total = f"total_{tap}" if total else f"weighed_{tap}"
    body.add("ReduceSum", f"{total} last", "compressed_f", keepdims=0)


def _norm(body: _Body) -> None:
    """Divide by the root mean square. The operator's epsilon is an attribute of this op's, so it is spelled out."""
    body.add("RMSNormalization", "compressed_f norm_weight_f", "context_norm", axis=-1)
    reference = body.nodes[-1].attribute.add()
    reference.name, reference.ref_attr_name, reference.type = "epsilon", "norm_eps", onnx.AttributeProto.FLOAT
