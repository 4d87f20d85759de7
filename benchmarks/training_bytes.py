"""What a training step of a language model must cost on a card, from the bytes and products of one token.

Time is products over the rate of the matrix units plus bytes over the bandwidth: no overlap, no cache, weights free. So
ratios are worth more than times, and cards with slower products flatter whoever moves more bytes.
"""

from dataclasses import dataclass

from ddl_model.config import LanguageModelConfig

PRODUCTS_PER_SECOND = 750e12
BYTES_PER_SECOND = 4.3e12
ADAM_BYTES = 28
"""Of each parameter in a step: weight, first and second moment read and written, gradient read, all float32."""


@dataclass(frozen=True)
class Plan:
    """How the states of a network are computed.

    All in numbers of d elements for a token. `per_rewrite`, `per_rewrite_backward`: what a sublayer's residual,
    compressor and norm move. `outside`, `outside_backward`: the same for the expansion, the first reading and the
    head's. `kept_per_rewrite`: what stays of a sublayer between forward and backward. `repeated` is moved once more.
    """

    name: str
    per_rewrite: float
    per_rewrite_backward: float
    outside: float
    outside_backward: float
    kept_per_rewrite: float
    repeated: float = 0.0


ADDITIVE = Plan("additive", 4, 4, 0, 0, 2)
FLOOR = Plan("delta, floor", 10, 15, 9, 14, 7)
"""One kernel per sublayer that also makes the next gate and target, which then cost no bytes."""


def kernels(one_input: bool, keep_every: int = 1) -> Plan:
    """Return the plan of the Triton kernels with 4 value channels (table in `export.kernels.triton`).

    `one_input`: gate and target are made of the same context. The gradient of a context has two sources, the gate and
    the sublayer, whose sum costs another 3. Of `keep_every` states one is kept, the others are made again.
    """
    forward = 11 + (1 if one_input else 2)
    backward = (15 + 2 if one_input else 16 + 4) + 3
    again = 1 - 1 / keep_every
    name = "delta, kernels" if keep_every == 1 else f"delta, kernels, 1 in {keep_every} states kept"
    return Plan(name, forward, backward, 11, 15, 7 - 6 * again, 11 * again)


@dataclass(frozen=True)
class Prediction:
    """Seconds and bytes of one token; `peak_bytes` without weights, gradients and optimizer."""

    forward_seconds: float
    step_seconds: float
    peak_bytes: float


def predict(config: LanguageModelConfig, plan: Plan, sequence_length: int, parameters: int, batch: int) -> Prediction:
    """Return what one of `batch` tokens costs in bfloat16."""
    d, layers, f = config.width, config.layers, config.feedforward_width
    inner = config.attention.heads * config.attention.head_width
    linear = 2 * (layers * (4 * d * inner + 3 * d * f) + d * config.vocab_size)
    attention = 2 * layers * sequence_length * inner  # causal: half of the pairs, twice a product
    element, rewrites = 2 * d, 2 * layers
    # Rotation and norms of queries and keys, then SwiGLU: each reads and writes what it works on.
    common = 2 * layers * (4 * inner + 3 * f)
    forward = common + element * (rewrites * plan.per_rewrite + plan.outside)
    backward = element * (rewrites * (plan.per_rewrite_backward + plan.repeated) + plan.outside_backward)
    logits = 2 * config.vocab_size
    step = forward + 2 * common + backward + 3 * logits + ADAM_BYTES * parameters / batch
    products = linear + attention
    step_products = 3 * linear + 3.5 * attention  # the backward of attention computes its weights again
    kept = 2 * layers * (7 * inner + 3 * f) + element * rewrites * plan.kept_per_rewrite
    return Prediction(
        products / PRODUCTS_PER_SECOND + forward / BYTES_PER_SECOND,
        step_products / PRODUCTS_PER_SECOND + step / BYTES_PER_SECOND,
        kept + 2 * logits,
    )
