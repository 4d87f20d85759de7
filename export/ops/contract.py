"""The contracts of the fused ops, written once: domain, names, versions and arguments.

The C++ kernels, the exporter, the parity report and the tests read them from here. Each op has a plain body
(`bodies.py`) that is attached to every exported file as an ONNX function: ONNX Runtime runs the kernel where the op
library is registered and inlines the body where it is not.

Shapes: `*n` any leading axes, `b` rows, `t` tokens, `d` width, `dv` value channels, `g` and `u` the widths of gate and
target inputs (`d` unless a hidden layer stands before the gate). T is float32, float16 or bfloat16; sums are float32.
"""

from dataclasses import dataclass, field

from onnx.defs import OpSchema

DOMAIN = "ai.ddl"

DOMAIN_VERSION = 2
"""The domain's version in exported files. Version 1 had `DeltaRewrite` alone, without override: it still loads."""

FLOAT32 = "tensor(float)"
FLOATS = (FLOAT32, "tensor(float16)", "tensor(bfloat16)")

OVERRIDE = "override"
OVERRIDE_TEXT = "changes of the gates (*n, 6), or 6 numbers for all: scale, shift, low, high, erase, write; float32"

_REWRITE_INPUTS = {
    "state": "X (*n, d, dv)",
    "direction": "raw direction h (*n, d); k = h / sqrt(|h|^2 + direction_eps^2)",
    "context": "input of the gate (*n, g)",
    "target_input": "input of the target (*n, u)",
    "gate_weight": "W_b (1, g)",
    "gate_bias": "b_b (1,)",
    "target_weight": "W_v (dv, u)",
    "target_bias": "b_v (dv,)",
}
_NEW_STATE = {"new_state": "X' = X + beta k (v - k^T X)^T (*n, d, dv)"}
_TRACE = {
    "beta": "gate 2 sigmoid(gate_logit), in [0, 2], or what the override makes of it (*n)",
    "gate_logit": "W_b c + b_b (*n)",
    "target": "v = W_v u + b_v, or target_scale sigmoid(W_v u + b_v) where target_scale > 0 (*n, dv)",
    "readout": "k^T X before the rewrite (*n, dv)",
    "direction_norm": "|h| before the guard (*n)",
}
_READ = {
    "compressed": "x, the weighed sum of the state (*n, d)",
    "context": "x / sqrt(mean(x^2) + norm_eps) * norm_weight (*n, d)",
}
# Node outputs are values of the op's body, where `context` is an input already.
_READ_NEXT = {"compressed": _READ["compressed"], "next_context": _READ["context"]}
_WEIGHT = "W (d, dv)"
_TOKEN_WEIGHT = "W (d, dv, taps): the last tap is the current token"
_HISTORY = "X of the taps - 1 tokens before each row's first (b, taps - 1, d, dv), the oldest first"
_NORM_WEIGHT = "weight of the norm (d,)"
_REWRITE_FLOATS = {
    "direction_eps": "guard of the normalisation, added squared",
    "target_scale": "0: the target is linear; above 0: its scaled sigmoid",
}
_ERASES = {"erases": "1: rewrite; 0: write only, X + beta k v^T"}
_NORM_EPS = {"norm_eps": "added to the mean square"}


@dataclass(frozen=True)
class Op:
    """One operator: arguments in order, each with its meaning. Trace outputs and the override are float32."""

    name: str
    version: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    floats: dict[str, str]
    ints: dict[str, str] = field(default_factory=dict)
    takes_override: bool = False
    over_tokens: bool = False

    @property
    def attributes(self) -> list[str]:
        """Names of the attributes, in order."""
        return [*self.floats, *self.ints]

    def arguments(self, *, override: bool) -> list[str]:
        """Return the names of a node's inputs, with or without the override."""
        if override and not self.takes_override:
            raise ValueError(f"{self.name} takes no override")
        return [*self.inputs, OVERRIDE] if override else list(self.inputs)

    def schema(self) -> OpSchema:
        """Return the ONNX schema: every output required, as function bodies need it."""
        parameter = OpSchema.FormalParameter
        inputs = [parameter(name, "T", text) for name, text in self.inputs.items()]
        if self.takes_override:
            optional = OpSchema.FormalParameterOption.Optional
            inputs.append(parameter(OVERRIDE, "F", OVERRIDE_TEXT, param_option=optional))
        attribute, kinds = OpSchema.Attribute, OpSchema.AttrType
        return OpSchema(
            self.name,
            DOMAIN,
            self.version,
            doc=f"{self.name} of delta networks.",
            inputs=inputs,
            outputs=[parameter(name, "F" if name in _TRACE else "T", text) for name, text in self.outputs.items()],
            type_constraints=[
                ("T", list(FLOATS), "state and weights"),
                ("F", [FLOAT32], "quantities"),
            ],
            attributes=[
                *(attribute(name, kinds.FLOAT, text, required=True) for name, text in self.floats.items()),
                *(attribute(name, kinds.INT, text, required=True) for name, text in self.ints.items()),
            ],
        )


DELTA_REWRITE = Op(
    "DeltaRewrite",
    2,
    _REWRITE_INPUTS,
    {**_NEW_STATE, **_TRACE},
    _REWRITE_FLOATS,
    _ERASES,
    takes_override=True,
)
COMPRESS_NORM = Op(
    "CompressNorm",
    1,
    {"state": "X (*n, d, dv)", "weight": _WEIGHT, "norm_weight": _NORM_WEIGHT},
    _READ,
    _NORM_EPS,
)
TOKEN_COMPRESS_NORM = Op(
    "TokenCompressNorm",
    1,
    {"state": "X (b, t, d, dv)", "history": _HISTORY, "weight": _TOKEN_WEIGHT, "norm_weight": _NORM_WEIGHT},
    _READ,
    _NORM_EPS,
    over_tokens=True,
)
DELTA_REWRITE_COMPRESS_NORM = Op(
    "DeltaRewriteCompressNorm",
    1,
    {**_REWRITE_INPUTS, "compress_weight": _WEIGHT, "norm_weight": _NORM_WEIGHT},
    {**_NEW_STATE, **_READ_NEXT, **_TRACE},
    {**_REWRITE_FLOATS, **_NORM_EPS},
    _ERASES,
    takes_override=True,
)
DELTA_REWRITE_TOKEN_COMPRESS_NORM = Op(
    "DeltaRewriteTokenCompressNorm",
    1,
    {**_REWRITE_INPUTS, "history": _HISTORY, "compress_weight": _TOKEN_WEIGHT, "norm_weight": _NORM_WEIGHT},
    {**_NEW_STATE, **_READ_NEXT, **_TRACE},
    {**_REWRITE_FLOATS, **_NORM_EPS},
    _ERASES,
    takes_override=True,
    over_tokens=True,
)
OPS = {
    op.name: op
    for op in (
        DELTA_REWRITE,
        COMPRESS_NORM,
        TOKEN_COMPRESS_NORM,
        DELTA_REWRITE_COMPRESS_NORM,
        DELTA_REWRITE_TOKEN_COMPRESS_NORM,
    )
}
"""All ops by name."""

REWRITES = ("DeltaRewrite", "DeltaRewriteCompressNorm", "DeltaRewriteTokenCompressNorm")
"""The ops that rewrite the state: each is one site of the network."""
