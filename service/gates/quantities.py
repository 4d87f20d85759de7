"""The catalogue of gate quantities: name, axes, unit, range, definition, and what each is computed from.

Symbols: k direction with length kappa, v target, p = k^T X readout, e the discrepancy p - v, X' the state after the
rewrite, A = I - beta k k^T its shortcut, P the product of all shortcuts, S the number of sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from service.bundle import Gates
from service.errors import CaptureUnavailable, InvalidFields, QuantityNotDefined, UnknownQuantity

Family = Literal["step", "state", "depth", "lens", "attribution"]
"""What a quantity is computed from: a rewrite alone; the states; all sites; the head; all sites and the head."""
Range = tuple[float | None, float | None]

SITE = ("site", "position")
CHANNEL = ("site", "position", "channel")
POSITION = ("position",)
CAPTURED = ("beta", "beta_logit", "proj", "v", "k_raw_norm")
"""Quantities that a graph can have as outputs; all others follow from these, the directions and the first state."""

_ANY: Range = (None, None)
_POSITIVE: Range = (0.0, None)
_UNIT: Range = (0.0, 1.0)
_COSINE: Range = (-1.0, 1.0)
_DELTA = frozenset({"delta"})
_GATED = frozenset({"delta", "write_only"})
_EVERY = frozenset({"delta", "write_only", "additive"})
_STEP = ("beta", "k_raw_norm", "proj", "v")


@dataclass(frozen=True)
class Quantity:
    """One row of the catalogue; `needs` names the captured quantities that it is computed from.

    `cost`: 0 is in the forward pass already, 1 a closed form, 2 a pass over the states, 3 all directions of a
    position, 4 the head.
    """

    axes: tuple[str, ...]
    unit: str
    range: Range
    definition: str
    needs: tuple[str, ...]
    cost: int
    rules: frozenset[str] = _GATED
    family: Family = "step"
    integer: bool = False


def _state(unit: str, limits: Range, definition: str, cost: int = 2) -> Quantity:
    return Quantity(SITE, unit, limits, definition, _STEP, cost, _EVERY, "state")


def _depth(axes: tuple[str, ...], unit: str, limits: Range, definition: str, rules: frozenset[str]) -> Quantity:
    return Quantity(axes, unit, limits, definition, _STEP, 3, rules, "depth")


def _lens(axes: tuple[str, ...], unit: str, limits: Range, definition: str, *, integer: bool = False) -> Quantity:
    return Quantity(axes, unit, limits, definition, _STEP, 4, _EVERY, "lens", integer)


QUANTITIES: dict[str, Quantity] = {
    "beta": Quantity(SITE, "1", (0.0, 2.0), "gate", ("beta",), 0),
    "beta_logit": Quantity(SITE, "logit", _ANY, "gate before the sigmoid", ("beta_logit",), 0),
    "proj": Quantity(CHANNEL, "state", _ANY, "readout k^T X", ("proj",), 0),
    "v": Quantity(CHANNEL, "state", _ANY, "target", ("v",), 0),
    "k_raw_norm": Quantity(
        SITE, "sublayer", _POSITIVE, "length of the raw direction: of the sublayer's output", ("k_raw_norm",), 0, _EVERY
    ),
    "k_norm": Quantity(SITE, "1", _UNIT, "kappa = r / sqrt(r^2 + eps^2)", ("k_raw_norm",), 0),
    "eigenvalue": Quantity(SITE, "1", _COSINE, "1 - beta kappa^2", ("beta", "k_raw_norm"), 1, _DELTA),
    "e_pre": Quantity(CHANNEL, "state", _ANY, "discrepancy before: k^T X - v", ("proj", "v"), 1),
    "e_pre_norm": Quantity(SITE, "state", _POSITIVE, "2-norm of e_pre over channels", ("proj", "v"), 1),
    "e_post": Quantity(
        CHANNEL,
        "state",
        _ANY,
        "discrepancy after: (1 - beta kappa^2) e_pre; without erasing e_pre + beta kappa^2 v",
        _STEP,
        1,
    ),
    "e_post_norm": Quantity(SITE, "state", _POSITIVE, "2-norm of e_post over channels", _STEP, 1),
    "erase_norm": Quantity(
        SITE, "state", _POSITIVE, "what is taken away: beta kappa |k^T X|", ("beta", "k_raw_norm", "proj"), 1, _DELTA
    ),
    "write_norm": Quantity(SITE, "state", _POSITIVE, "what is put in: beta kappa |v|", ("beta", "k_raw_norm", "v"), 1),
    "balance": Quantity(
        SITE, "1", _COSINE, "(write_norm - erase_norm) / (write_norm + erase_norm); null for 0 / 0", _STEP, 1, _DELTA
    ),
    "agreement": Quantity(SITE, "cosine", _COSINE, "cos(v, k^T X); more than one value channel", ("proj", "v"), 1),
    "update_norm": Quantity(
        SITE,
        "state",
        _POSITIVE,
        "change of the state |X' - X| = beta kappa |e_pre|; without erasing beta kappa |v|",
        _STEP,
        1,
    ),
    "energy_delta": Quantity(SITE, "state^2", _ANY, "|X'|^2 - |X|^2", _STEP, 1),
    "state_norm": _state("state", _POSITIVE, "|X|, before the rewrite"),
    "update_ratio": _state("1", _POSITIVE, "update_norm / state_norm"),
    "drift": _state("1", _POSITIVE, "|X - X_0| / |X_0|"),
    "state_cos": _state("cosine", _COSINE, "cos(X, X_0)"),
    "k_cos_prev": _state("cosine", _COSINE, "k_s . k_{s-1}; null at the first site", 3),
    "rewrite_of": Quantity(
        SITE,
        "site",
        (-1.0, None),
        "the earlier site with the largest |k_s . k_r|; -1 first",
        _STEP,
        3,
        _GATED,
        "depth",
        True,
    ),
    "rewrite_cos": _depth(SITE, "cosine", _COSINE, "k_s . k_r of rewrite_of; null at the first site", _GATED),
    "gram": _depth(("position", "pair"), "1", _COSINE, "k_s . k_r for s > r, at pair s (s - 1) / 2 + r", _EVERY),
    "survival": _depth(SITE, "1", _UNIT, "part of a write that later sites leave", _DELTA),
    "embedding_kept": _depth(POSITION, "1", _UNIT, "|P X_0| / |X_0|", _DELTA),
    "path_logdet": _depth(POSITION, "log10", (None, 0.0), "log10 |det P|; null where P is singular", _DELTA),
    "path_sign": _depth(POSITION, "1", _COSINE, "sign of det P", _DELTA),
    "path_sigma": _depth(SITE, "1", _UNIT, "singular values of P that can differ from 1, falling", _DELTA),
    "path_erank": _depth(POSITION, "1", (1.0, None), "exp(entropy) of path_sigma over its sum", _DELTA),
    "lens_topk": _lens(
        (*SITE, "k"), "id", (0.0, None), "the likeliest words if the state X' were the last", integer=True
    ),
    "lens_topk_logprob": _lens((*SITE, "k"), "nat", (None, 0.0), "log-probabilities of lens_topk"),
    "lens_kl": _lens(SITE, "nat", _POSITIVE, "KL(final distribution | distribution of X')"),
    "lens_entropy": _lens(SITE, "nat", _POSITIVE, "entropy of the distribution of X'"),
    "lens_target_logprob": _lens(SITE, "nat", (None, 0.0), "log-probability of the first target"),
    "lens_target_rank": _lens(
        SITE, "1", (-1.0, None), "how many words are likelier than the first target", integer=True
    ),
    "logit_contrib": Quantity(
        ("site+1", "position", "target"),
        "logit",
        _ANY,
        "what the surviving embedding (0) and each surviving write (s + 1) add to the logit, norm frozen",
        _STEP,
        4,
        _EVERY,
        "attribution",
    ),
    "readout_alignment": Quantity(
        (*SITE, "target"),
        "cosine",
        _COSINE,
        "cos(compressed write, unembedding row of the target)",
        _STEP,
        4,
        _EVERY,
        "attribution",
    ),
}

COMPANIONS = {"lens_topk": ("lens_topk_logprob",), "path_logdet": ("path_sign",), "rewrite_of": ("rewrite_cos",)}
"""What a name brings along, because one says little without the other."""

PRESETS: dict[str, tuple[str, ...]] = {
    "core": ("beta",),
    "audit": ("beta", "e_pre_norm", "e_post_norm", "update_ratio", "balance"),
    "page": (
        "beta",
        "eigenvalue",
        "e_pre_norm",
        "e_post_norm",
        "erase_norm",
        "write_norm",
        "update_ratio",
        "state_norm",
        "k_cos_prev",
    ),
    "path": ("survival", "embedding_kept", "path_logdet", "path_sigma"),
}


def find_quantities(asked: str | Sequence[str], gates: Gates, *, over_tokens: bool = False) -> tuple[str, ...]:
    """Return the names of presets and quantities, each once, in the order asked for; a name brings its companions.

    A preset leaves out what the model does not have. `over_tokens` says that the head mixes several tokens' states.

    Raises:
        InvalidFields: nothing is asked for.
        UnknownQuantity: a name is neither a quantity nor a preset.
        QuantityNotDefined: a quantity does not exist under the model's update rule, or with one value channel.
        CaptureUnavailable: the bundle lacks an output that a quantity needs.
    """
    names: dict[str, None] = {}
    for word in [asked] if isinstance(asked, str) else asked:
        if word in PRESETS:
            here = [name for name in PRESETS[word] if unavailable(name, gates, over_tokens=over_tokens) is None]
        else:
            _require(word, gates, over_tokens=over_tokens)
            here = [word]
        for name in here:
            names.update(dict.fromkeys((name, *COMPANIONS.get(name, ()))))
    if not names:
        if not asked:
            raise InvalidFields("quantities is empty: name at least one, or a preset")
        raise CaptureUnavailable("the bundle was exported without the outputs that these quantities need")
    return tuple(names)


def unavailable(name: str, gates: Gates, *, over_tokens: bool = False) -> str | None:
    """Return why this bundle cannot answer a quantity, or None if it can."""
    if not defined(name, gates):
        return f"{name!r} is not defined under the update rule {gates.update_rule!r}"
    row = QUANTITIES[name]
    if missing := [needed for needed in row.needs if needed not in gates.outputs]:
        return f"{name!r} needs {', '.join(missing)}, which the bundle was exported without"
    if row.family != "step" and gates.depth is None:
        return f"{name!r} needs directions and states, which the bundle was exported without"
    if row.family == "attribution" and over_tokens:
        return "the head mixes the states of several tokens: what a site adds to a logit is no token's own"
    return None


def defined(name: str, gates: Gates) -> bool:
    """Say whether a quantity exists in networks of this kind."""
    return gates.update_rule in QUANTITIES[name].rules and not (name == "agreement" and gates.value_channels == 1)


def streams(name: str) -> bool:
    """Say whether a quantity can come along with generated tokens: if it follows from the outputs of one step."""
    return QUANTITIES[name].family == "step"


def _require(name: str, gates: Gates, *, over_tokens: bool) -> None:
    if name not in QUANTITIES:
        known = [*(quantity for quantity in QUANTITIES if defined(quantity, gates)), *PRESETS]
        raise UnknownQuantity(f"no quantity {name[:64]!r}; known: {', '.join(known)}", known=known)
    if not defined(name, gates):
        others = [other for other in QUANTITIES if defined(other, gates)]
        raise QuantityNotDefined(
            f"{name!r} is not defined under the update rule {gates.update_rule!r}"
            f" with {gates.value_channels} value channels; defined are {', '.join(others)}",
            defined=others,
        )
    if reason := unavailable(name, gates, over_tokens=over_tokens):
        raise CaptureUnavailable(reason)
