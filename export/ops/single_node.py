"""Models of one custom node with its body: what kernels are tested and timed on."""

import onnx
from onnx import TensorProto, helper

from export.ops.bodies import plain_body
from export.ops.contract import DOMAIN, DOMAIN_VERSION, OVERRIDE, Op

_TRACE = {"beta", "gate_logit", "target", "readout", "direction_norm"}


def single_node_model(
    op: Op,
    *,
    leading: int = 1,
    dv: int | str = "dv",
    taps: int = 1,
    attributes: dict[str, float | int] | None = None,
    override: bool = False,
    datatype: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] | None = None,
    opset: int = 23,
) -> onnx.ModelProto:
    """Return a model of one node.

    Leading axes are symbols `n0`, `n1`, ..., the width is `d`; gate and target inputs have the widths `g` and `u`.
    Outputs that `outputs` leaves out have no name in the node, so nobody can fetch them.
    """
    values = {"direction_eps": 1e-6, "target_scale": 0.0, "erases": 1, "norm_eps": 1e-5, **(attributes or {})}
    kept = tuple(op.outputs) if outputs is None else outputs
    n: list[str | int] = [f"n{i}" for i in range(leading)]
    weight: list[str | int] = ["d", dv, taps] if op.over_tokens else ["d", dv]
    shapes: dict[str, list[str | int]] = {
        "state": [*n, "d", dv],
        "direction": [*n, "d"],
        "context": [*n, "g"] if op.takes_override else [*n, "d"],
        "target_input": [*n, "u"],
        "gate_weight": [1, "g"],
        "gate_bias": [1],
        "target_weight": [dv, "u"],
        "target_bias": [dv],
        "history": [n[0] if n else 1, "past", "d", dv],
        "weight": weight,
        "compress_weight": weight,
        "norm_weight": ["d"],
        OVERRIDE: [*(f"o{i}" for i in range(leading)), 6],
        "new_state": [*n, "d", dv],
        "compressed": [*n, "d"],
        "next_context": [*n, "d"],
        "beta": n,
        "gate_logit": n,
        "target": [*n, dv],
        "readout": [*n, dv],
        "direction_norm": n,
    }

    def declare(name: str) -> onnx.ValueInfoProto:
        kind = TensorProto.FLOAT if name in _TRACE or name == OVERRIDE else datatype
        return helper.make_tensor_value_info(name, kind, shapes[name])

    inputs = op.arguments(override=override)
    node = helper.make_node(op.name, inputs, [name if name in kept else "" for name in op.outputs], domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(name, float(values[name])) for name in op.floats)
    node.attribute.extend(helper.make_attribute(name, int(values[name])) for name in op.ints)
    graph = helper.make_graph([node], "delta", [declare(i) for i in inputs], [declare(o) for o in kept])
    use = {"erases": bool(values["erases"]), "squashes": values["target_scale"] > 0}
    body = plain_body(op, opset, override=override, taps=taps, **use)
    return helper.make_model(
        graph,
        functions=[body],
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)],
        ir_version=10,
    )
