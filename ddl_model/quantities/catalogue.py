"""The catalogue of the gates API: name, axes, unit, definition of every quantity, and where it exists.

k direction of length kappa, v target, p = k^T X readout, e = p - v, X' the state after the rewrite, A = I - beta k k^T
its shortcut, P the product of all shortcuts, S the number of sites. Cosines are of directions without a length that a
site may have learned, and 0 where there is no direction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ddl_model.config import ResidualRule

Family = Literal["step", "state", "depth", "lens", "attribution"]
"""What a quantity is computed from: a rewrite alone; the states; all sites; the head; all sites and the head."""

_DELTA: frozenset[ResidualRule] = frozenset({"delta"})
_GATED: frozenset[ResidualRule] = frozenset({"delta", "write_only"})
_EVERY: frozenset[ResidualRule] = frozenset({"delta", "write_only", "additive"})

_CELL = ("site", "row", "position")
_CHANNEL = (*_CELL, "channel")
_TOKEN = ("row", "position")


class QuantityError(ValueError):
    """A quantity was asked for that does not exist, or not in this network; the message names those that do."""


@dataclass(frozen=True)
class Quantity:
    """One row of the catalogue: axes of the tensor, unit, definition, the residual rules under which it exists.

    Where a network's gates are grouped by value channels, a quantity `per_gate` has a last axis `group`.
    """

    axes: tuple[str, ...]
    unit: str
    definition: str
    rules: frozenset[ResidualRule]
    family: Family
    per_gate: bool = False


CATALOGUE: dict[str, Quantity] = {
    "beta": Quantity(_CELL, "1", "gate, in [0, 2]", _GATED, "step", per_gate=True),
    "beta_logit": Quantity(_CELL, "logit", "gate before the sigmoid", _GATED, "step", per_gate=True),
    "proj": Quantity(_CHANNEL, "state", "readout p = k^T X", _GATED, "step"),
    "v": Quantity(_CHANNEL, "state", "target", _GATED, "step"),
    "k_norm": Quantity(_CELL, "1", "kappa = |k|", _GATED, "step"),
    "k_raw_norm": Quantity(_CELL, "sublayer", "length of the raw direction: of the sublayer's output", _EVERY, "step"),
    "eigenvalue": Quantity(_CELL, "1", "1 - beta kappa^2", _DELTA, "step", per_gate=True),
    "e_pre": Quantity(_CHANNEL, "state", "discrepancy before: p - v", _GATED, "step"),
    "e_post": Quantity(_CHANNEL, "state", "discrepancy after: k^T X' - v, as measured", _GATED, "state"),
    "e_pre_norm": Quantity(_CELL, "state", "2-norm of e_pre over channels", _GATED, "step"),
    "e_post_norm": Quantity(_CELL, "state", "2-norm of e_post over channels", _GATED, "state"),
    "erase_norm": Quantity(_CELL, "state", "what is taken away: |beta kappa p|", _DELTA, "step"),
    "write_norm": Quantity(_CELL, "state", "what is put in: |beta kappa v|", _GATED, "step"),
    "balance": Quantity(
        _CELL, "1", "(write_norm - erase_norm) / (write_norm + erase_norm); NaN for 0 / 0", _DELTA, "step"
    ),
    "agreement": Quantity(_CELL, "cosine", "cos(v, p); with more than one value channel", _GATED, "step"),
    "update_norm": Quantity(_CELL, "state", "|X' - X|", _EVERY, "state"),
    "energy_delta": Quantity(_CELL, "state^2", "|X'|^2 - |X|^2", _EVERY, "state"),
    "state_norm": Quantity(_CELL, "state", "|X|, before the rewrite", _EVERY, "state"),
    "update_ratio": Quantity(_CELL, "1", "update_norm / state_norm", _EVERY, "state"),
    "drift": Quantity(_CELL, "1", "|X - X_0| / |X_0|", _EVERY, "state"),
    "state_cos": Quantity(_CELL, "cosine", "cos(X, X_0)", _EVERY, "state"),
    "k_cos_prev": Quantity(_CELL, "cosine", "k_s . k_{s-1}; NaN at the first site", _EVERY, "depth"),
    "rewrite_of": Quantity(_CELL, "site", "the earlier site with the largest |k_s . k_r|; -1 first", _GATED, "depth"),
    "rewrite_cos": Quantity(_CELL, "cosine", "k_s . k_r of rewrite_of; NaN at the first site", _GATED, "depth"),
    "gram": Quantity((*_TOKEN, "pair"), "1", "k_s . k_r for s > r, at pair s (s - 1) / 2 + r", _EVERY, "depth"),
    "survival": Quantity(
        _CELL, "1", "part of a write that later sites leave: |A_{S-1} ... A_{s+1} k| / |k|", _DELTA, "depth", True
    ),
    "embedding_kept": Quantity(_TOKEN, "1", "|P X_0| / |X_0|", _DELTA, "depth", True),
    "path_logdet": Quantity(
        _TOKEN, "log10", "log10 |det P|, minus infinity where P is singular", _DELTA, "depth", True
    ),
    "path_sign": Quantity(_TOKEN, "1", "sign of det P", _DELTA, "depth", True),
    "path_sigma": Quantity(
        _CELL, "1", "the min(S, d) singular values of P that can differ from 1, falling", _DELTA, "depth", True
    ),
    "path_erank": Quantity(_TOKEN, "1", "exp(entropy) of path_sigma over its sum", _DELTA, "depth", True),
    "lens_topk": Quantity((*_CELL, "k"), "id", "the likeliest words if the state X' were the last", _EVERY, "lens"),
    "lens_topk_logprob": Quantity((*_CELL, "k"), "nat", "log-probabilities of lens_topk", _EVERY, "lens"),
    "lens_kl": Quantity(_CELL, "nat", "KL(final distribution | distribution of X')", _EVERY, "lens"),
    "lens_entropy": Quantity(_CELL, "nat", "entropy of the distribution of X'", _EVERY, "lens"),
    "lens_target_logprob": Quantity(_CELL, "nat", "log-probability of the first target", _EVERY, "lens"),
    "lens_target_rank": Quantity(_CELL, "1", "how many words are likelier than the first target", _EVERY, "lens"),
    "logit_contrib": Quantity(
        ("site+1", "row", "position", "target"),
        "logit",
        "what the surviving embedding (0) and each surviving write (s + 1) add to the logit, norm frozen",
        _EVERY,
        "attribution",
    ),
    "readout_alignment": Quantity(
        (*_CELL, "target"), "cosine", "cos(compressed write, unembedding row of the target)", _EVERY, "attribution"
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
    "all": tuple(CATALOGUE),
}


@dataclass(frozen=True)
class Situation:
    """What decides which quantities exist: the rule, the value channels, what was kept, how the head reads.

    `no_states`, `no_lens` and `no_attribution` are the reasons why there are none of these, or None.
    """

    rule: ResidualRule
    value_channels: int
    no_states: str | None = None
    no_lens: str | None = None
    no_attribution: str | None = None

    def why_absent(self, name: str) -> str | None:
        """Return why a quantity does not exist here, or None where it does."""
        quantity = CATALOGUE[name]
        if self.rule not in quantity.rules:
            return f"the residual rule {self.rule!r} has none"
        if name == "agreement" and self.value_channels == 1:
            return "with one value channel it would be a sign"
        match quantity.family:
            case "step":
                return None
            case "lens":
                return self.no_lens
            case "attribution":
                return self.no_attribution
            case _:
                return self.no_states


@dataclass(frozen=True)
class Choice:
    """The quantities to compute, and those of the presets asked for that do not exist here, with the reasons."""

    names: tuple[str, ...]
    absent: dict[str, str]


def choose(asked: str | Sequence[str], situation: Situation) -> Choice:
    """Return what to compute for a preset, a name, or a list of both; each name brings its companions.

    A preset leaves out what does not exist in the network.

    Raises:
        QuantityError: a name is neither a quantity nor a preset, or a quantity asked for by name does not exist here.
    """
    allowed = [name for name in CATALOGUE if situation.why_absent(name) is None]
    names: dict[str, None] = {}
    absent: dict[str, str] = {}
    for word in [asked] if isinstance(asked, str) else asked:
        if word not in CATALOGUE and word not in PRESETS:
            raise QuantityError(
                f"there is no quantity {word!r}; here are {', '.join(allowed)}; or {', '.join(PRESETS)}"
            )
        for name in PRESETS.get(word, (word,)):
            for each in (name, *COMPANIONS.get(name, ())):
                reason = situation.why_absent(each)
                if reason is None:
                    names[each] = None
                elif word in PRESETS:
                    absent[each] = reason
                else:
                    raise QuantityError(f"there is no {each} here: {reason}; there are {', '.join(allowed)}")
    return Choice(tuple(names), absent)
