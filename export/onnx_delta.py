"""The contract of the fused delta op, written once: domain, name, version, arguments, and the plain ONNX body.

The C++ kernels, the exporter, the parity report and the tests read it from here. The body is attached to every
exported file as an ONNX function: ONNX Runtime runs the kernel where the op library is registered and inlines the
body where it is not.
"""

from typing import Any

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from onnx.defs import OpSchema
from onnxscript import values

DOMAIN = "ai.ddl"
VERSION = 1
OP_NAME = "DeltaRewrite"

INPUTS = {
    "state": "X (*n, d, dv)",
    "direction": "raw direction h (*n, d); k = h / sqrt(|h|^2 + direction_eps^2)",
    "context": "input of the gate (*n, d)",
    "target_input": "input of the target (*n, d)",
    "gate_weight": "W_b (1, d)",
    "gate_bias": "b_b (1,)",
    "target_weight": "W_v (dv, d)",
    "target_bias": "b_v (dv,)",
}
OUTPUTS = {
    "new_state": "X' = X + beta k (v - k^T X)^T (*n, d, dv)",
    "beta": "gate 2 sigmoid(gate_logit), in [0, 2] (*n)",
    "gate_logit": "W_b c + b_b (*n)",
    "target": "v = W_v u + b_v, or target_scale sigmoid(W_v u + b_v) where target_scale > 0 (*n, dv)",
    "readout": "k^T X before the rewrite (*n, dv)",
    "direction_norm": "|h| before the guard (*n)",
}
ATTRIBUTES = {
    "direction_eps": "guard of the normalisation, added squared",
    "target_scale": "0: the target is linear; above 0: its scaled sigmoid",
}

_FLOAT = "tensor(float)"


def schema() -> OpSchema:
    """Return the ONNX schema of the op: float32 arguments, every output required."""
    parameter = OpSchema.FormalParameter
    return OpSchema(
        OP_NAME,
        DOMAIN,
        VERSION,
        doc="One delta rewrite of a token state, with its gate and its target.",
        inputs=[parameter(name, "T", text) for name, text in INPUTS.items()],
        outputs=[parameter(name, "T", text) for name, text in OUTPUTS.items()],
        type_constraints=[("T", [_FLOAT], "float32")],
        attributes=[
            OpSchema.Attribute(name, OpSchema.AttrType.FLOAT, text, required=True) for name, text in ATTRIBUTES.items()
        ],
    )


_bare_node = values.Op(values.Opset(DOMAIN, VERSION), OP_NAME, schema())


def delta_rewrite_onnx(
    state: Any,
    direction: Any,
    context: Any,
    target_input: Any,
    gate_weight: Any,
    gate_bias: Any,
    target_weight: Any,
    target_bias: Any,
    direction_eps: float,
    target_scale: float,
) -> Any:
    """Translate `ddl::delta_rewrite` to one bare node: the exporter's inliner finds no body that it could inline."""
    return _bare_node(
        state,
        direction,
        context,
        target_input,
        gate_weight,
        gate_bias,
        target_weight,
        target_bias,
        direction_eps=direction_eps,
        target_scale=target_scale,
    )


def plain_body(opset: int) -> onnx.FunctionProto:
    """Return the op in standard ONNX operators, for models of opset `opset` (18 or newer).

    The scale is an attribute, so the body computes both forms of the target and selects one.
    """
    nodes: list[onnx.NodeProto] = []

    def attribute(name: str, output: str) -> None:
        node = helper.make_node("Constant", [], [output])
        reference = node.attribute.add()
        reference.name, reference.ref_attr_name = "value_float", name
        reference.type = onnx.AttributeProto.FLOAT
        nodes.append(node)

    def node(op: str, inputs: str, output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(op, inputs.split(), [output], **attributes))

    attribute("direction_eps", "eps")
    attribute("target_scale", "scale")
    node("Constant", "", "last", value_ints=[-1])
    node("Constant", "", "before_last", value_ints=[-2])
    node("Constant", "", "two", value_float=2.0)
    node("Constant", "", "zero", value_float=0.0)
    # k = h / sqrt(|h|^2 + eps^2)
    node("Mul", "direction direction", "squares")
    node("ReduceSum", "squares last", "square", keepdims=1)
    node("Mul", "eps eps", "eps_square")
    node("Add", "square eps_square", "guarded")
    node("Sqrt", "guarded", "length")
    node("Div", "direction length", "k")
    node("Sqrt", "square", "direction_norm_column")
    node("Squeeze", "direction_norm_column last", "direction_norm")
    # beta = 2 sigmoid(W_b c + b_b)
    node("Transpose", "gate_weight", "gate_weight_t", perm=[1, 0])
    node("MatMul", "context gate_weight_t", "gate_product")
    node("Add", "gate_product gate_bias", "gate_logit_column")
    node("Sigmoid", "gate_logit_column", "gate_half")
    node("Mul", "gate_half two", "beta_column")
    node("Squeeze", "gate_logit_column last", "gate_logit")
    node("Squeeze", "beta_column last", "beta")
    # v = W_v u + b_v
    node("Transpose", "target_weight", "target_weight_t", perm=[1, 0])
    node("MatMul", "target_input target_weight_t", "target_product")
    node("Add", "target_product target_bias", "target_linear")
    node("Sigmoid", "target_linear", "target_half")
    node("Mul", "target_half scale", "target_squashed")
    node("Greater", "scale zero", "squash")
    node("Where", "squash target_squashed target_linear", "target")
    # X' = X + beta k (v - k^T X)^T
    node("Unsqueeze", "k before_last", "k_row")
    node("MatMul", "k_row state", "readout_row")
    node("Squeeze", "readout_row before_last", "readout")
    node("Sub", "target readout", "discrepancy")
    node("Mul", "discrepancy beta_column", "step")
    node("Unsqueeze", "k last", "k_column")
    node("Unsqueeze", "step before_last", "step_row")
    node("Mul", "k_column step_row", "update")
    node("Add", "state update", "new_state")
    return helper.make_function(
        DOMAIN,
        OP_NAME,
        list(INPUTS),
        list(OUTPUTS),
        nodes,
        [helper.make_opsetid("", opset)],
        attributes=list(ATTRIBUTES),
    )


def attach_plain_body(model: ir.Model) -> None:
    """Add the plain body to `model` as a function. Call it last: later passes of the exporter would inline it."""
    function = ir.serde.deserialize_function(plain_body(model.opset_imports[""]))
    model.functions[function.identifier()] = function
    model.opset_imports[DOMAIN] = VERSION


def single_node_model(dv: int, eps: float, scale: float, opset: int = 23) -> onnx.ModelProto:
    """Return a model of one delta node with its body: what kernels are tested and timed on.

    Leading axes are one symbolic dimension `n`, the width is `d`.
    """
    shapes: dict[str, list[str | int]] = {
        "state": ["n", "d", dv],
        "direction": ["n", "d"],
        "context": ["n", "d"],
        "target_input": ["n", "d"],
        "gate_weight": [1, "d"],
        "gate_bias": [1],
        "target_weight": [dv, "d"],
        "target_bias": [dv],
        "new_state": ["n", "d", dv],
        "beta": ["n"],
        "gate_logit": ["n"],
        "target": ["n", dv],
        "readout": ["n", dv],
        "direction_norm": ["n"],
    }

    def declare(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name])

    node = helper.make_node(OP_NAME, list(INPUTS), list(OUTPUTS), domain=DOMAIN, direction_eps=eps, target_scale=scale)
    graph = helper.make_graph([node], "delta", [declare(name) for name in INPUTS], [declare(name) for name in OUTPUTS])
    return helper.make_model(
        graph,
        functions=[plain_body(opset)],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
