"""How torch's operators become nodes of the graph, and how the bodies are attached to it."""

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import values

from export.ops.attention import cached_attention
from export.ops.bodies import plain_body
from export.ops.contract import (
    COMPRESS_NORM,
    DELTA_REWRITE,
    DELTA_REWRITE_COMPRESS_NORM,
    DELTA_REWRITE_TOKEN_COMPRESS_NORM,
    DOMAIN,
    DOMAIN_VERSION,
    OPS,
    OVERRIDE,
    TOKEN_COMPRESS_NORM,
    Op,
)

_DOMAIN = values.Opset(DOMAIN, DOMAIN_VERSION)
_EMIT = {name: values.Op(_DOMAIN, name, op.schema()) for name, op in OPS.items()}


# The exporter's inliner finds no body in these that it could inline: each call becomes one bare node.
def _rewrite(
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
    erases: bool,
    override: Any = None,
) -> Any:
    inputs = (state, direction, context, target_input, gate_weight, gate_bias, target_weight, target_bias)
    optional = () if override is None else (override,)
    options = {"direction_eps": direction_eps, "target_scale": target_scale, "erases": int(erases)}
    return _EMIT[DELTA_REWRITE.name](*inputs, *optional, **options)


def _compress_norm(state: Any, weight: Any, norm_weight: Any, norm_eps: float) -> Any:
    return _EMIT[COMPRESS_NORM.name](state, weight, norm_weight, norm_eps=norm_eps)


def _token_compress_norm(state: Any, history: Any, weight: Any, norm_weight: Any, norm_eps: float) -> Any:
    return _EMIT[TOKEN_COMPRESS_NORM.name](state, history, weight, norm_weight, norm_eps=norm_eps)


def _rewrite_compress_norm(
    state: Any,
    direction: Any,
    context: Any,
    target_input: Any,
    gate_weight: Any,
    gate_bias: Any,
    target_weight: Any,
    target_bias: Any,
    compress_weight: Any,
    norm_weight: Any,
    direction_eps: float,
    target_scale: float,
    erases: bool,
    override: Any,
    norm_eps: float,
) -> Any:
    inputs = (state, direction, context, target_input, gate_weight, gate_bias, target_weight, target_bias)
    optional = () if override is None else (override,)
    options = {"direction_eps": direction_eps, "target_scale": target_scale, "erases": int(erases)}
    emit = _EMIT[DELTA_REWRITE_COMPRESS_NORM.name]
    return emit(*inputs, compress_weight, norm_weight, *optional, **options, norm_eps=norm_eps)


def _rewrite_token_compress_norm(
    state: Any,
    direction: Any,
    context: Any,
    target_input: Any,
    gate_weight: Any,
    gate_bias: Any,
    target_weight: Any,
    target_bias: Any,
    history: Any,
    compress_weight: Any,
    norm_weight: Any,
    direction_eps: float,
    target_scale: float,
    erases: bool,
    override: Any,
    norm_eps: float,
) -> Any:
    inputs = (state, direction, context, target_input, gate_weight, gate_bias, target_weight, target_bias)
    optional = () if override is None else (override,)
    options = {"direction_eps": direction_eps, "target_scale": target_scale, "erases": int(erases)}
    emit = _EMIT[DELTA_REWRITE_TOKEN_COMPRESS_NORM.name]
    return emit(*inputs, history, compress_weight, norm_weight, *optional, **options, norm_eps=norm_eps)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the exporter's table from our torch operators to the functions that emit their nodes."""
    return {
        torch.ops.ddl.delta_rewrite.default: _rewrite,
        torch.ops.ddl.compress_norm.default: _compress_norm,
        torch.ops.ddl.token_compress_norm.default: _token_compress_norm,
        torch.ops.ddl.delta_rewrite_compress_norm.default: _rewrite_compress_norm,
        torch.ops.ddl.delta_rewrite_token_compress_norm.default: _rewrite_token_compress_norm,
        torch.ops.ddl.cached_attention.default: cached_attention,
    }


def custom_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes of our domain, in order."""
    return [node for node in graph if node.domain == DOMAIN]


def attach_plain_bodies(model: ir.Model) -> None:
    """Add the body of every op that the graph uses. Call it last: later passes of the exporter would inline them.

    Raises:
        ValueError: nodes of one op differ in how they use it: a file has one body of each.
    """
    opset = model.opset_imports[""]
    used: dict[str, set[tuple[tuple[str, Any], ...]]] = {}
    for node in custom_nodes(model.graph):
        used.setdefault(node.op_type, set()).add(tuple(_use(OPS[node.op_type], node).items()))
    for name, uses in used.items():
        if len(uses) > 1:
            raise ValueError(f"the nodes of {name} differ in how they use it: {sorted(uses)}")
        function = ir.serde.deserialize_function(plain_body(OPS[name], opset, **dict(uses.pop())))
        model.functions[function.identifier()] = function
    if used:
        model.opset_imports[DOMAIN] = DOMAIN_VERSION


def _use(op: Op, node: ir.Node) -> dict[str, Any]:
    """Return the options of `plain_body` that a node needs."""
    use: dict[str, Any] = {}
    if op.takes_override:
        use["override"] = len(node.inputs) > len(op.inputs)
        use["erases"] = bool(node.attributes["erases"].as_int())
        use["squashes"] = node.attributes["target_scale"].as_float() > 0
    if op.over_tokens:
        weight = node.inputs[[*op.inputs].index("compress_weight" if op.takes_override else "weight")]
        assert weight is not None
        assert weight.shape is not None, f"the weights of {node.name} have no shape"
        use["taps"] = weight.shape.numpy()[2]
    return use


assert OVERRIDE not in {name for op in OPS.values() for name in op.inputs}, "the override is always the last input"
