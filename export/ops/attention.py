"""How attention over a cache becomes one node of ONNX Runtime that works in place.

`com.microsoft::GroupQueryAttention` writes new keys and values into the caller's buffers where its past and present
tensors are the same memory, and reads no slot behind a row's last token. The standard Attention and TensorScatter
operators can be bound in the same way, but their CPU kernels go over the whole buffer at every step.
"""

from typing import Any

from onnx.defs import OpSchema
from onnxscript import values
from onnxscript.onnx_opset import opset23

DOMAIN = "com.microsoft"
VERSION = 1
HEAD_WIDTH_STEP = 8
"""The kernel takes heads whose width is a multiple of this."""

_INPUTS = {"query": "T", "key": "T", "value": "T", "keys": "T", "values": "T", "last_slots": "M", "total": "M"}
_OUTPUTS = {"heads": "T", "new_keys": "T", "new_values": "T"}
_SCHEMA = OpSchema(
    "GroupQueryAttention",
    DOMAIN,
    VERSION,
    inputs=[OpSchema.FormalParameter(name, kind) for name, kind in _INPUTS.items()],
    outputs=[OpSchema.FormalParameter(name, kind) for name, kind in _OUTPUTS.items()],
    type_constraints=[
        ("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "heads"),
        ("M", ["tensor(int32)"], "lengths"),
    ],
    attributes=[
        OpSchema.Attribute(name, OpSchema.AttrType.INT, required=True) for name in ("num_heads", "kv_num_heads")
    ],
)
_EMIT = values.Op(values.Opset(DOMAIN, VERSION), _SCHEMA.name, _SCHEMA)
_INT32 = 6

op: Any = opset23  # its types are those of values, not of the nodes that are emitted here


def cached_attention(query: Any, key: Any, value: Any, keys: Any, values: Any, places: Any) -> Any:
    """Emit the node for `ddl::cached_attention`, between reshapes, which cost nothing."""
    heads, width = query.shape[2:]
    if width % HEAD_WIDTH_STEP:
        raise ValueError(f"GroupQueryAttention takes heads of a width that {HEAD_WIDTH_STEP} divides, got {width}")
    # The node takes each row's last slot, and tells the first pass by a total that is no more than its tokens.
    last_slots = op.Cast(op.Gather(places, op.Constant(value_int=-1), axis=1), to=_INT32)
    total = op.Add(op.ReduceMax(last_slots, keepdims=0), op.Cast(op.Constant(value_int=1), to=_INT32))
    joined = (op.Reshape(part, op.Constant(value_ints=[0, 0, heads * width])) for part in (query, key, value))
    out = _EMIT(*joined, keys, values, last_slots, total, num_heads=heads, kv_num_heads=heads)
    return op.Reshape(out[0], op.Constant(value_ints=[0, 0, heads, width])), out[1], out[2]
