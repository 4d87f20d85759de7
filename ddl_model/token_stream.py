"""What a forward pass over tokens knows of the tokens before it, and leaves for the pass after it.

Prefill, decode and the full forward are one path. Each module that looks back in time (attention, token convolutions,
token shifts) asks the stream; whether the earlier tokens are in the same pass or in a cache makes no difference to it.
A cache is never changed: a pass returns a new one, so the same cache may be continued twice.

Rows may have different lengths. Inside a pass the tokens of a row start at its first column, and columns at or after
its count are padding: nothing causal ever sees them, and nothing of them is remembered.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from ddl_model.attention_op import cached_attention
from ddl_model.rope import RotaryEmbedding


@dataclass(frozen=True)
class DecodeCache:
    """Everything that later tokens need of earlier ones.

    `keys` and `values` hold one tensor (b, heads, slots, head width) per layer; row b fills its first `lengths[b]`
    slots. `histories` hold, by name, the last inputs of each token convolution or shift, (b, reach, ...), with zeros
    before a row's first token. With `fixed_slots` there are slots enough for all tokens to come; else a pass that
    needs more returns a cache with more.
    """

    lengths: Int64[Tensor, " b"]
    keys: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    histories: dict[str, Tensor] = field(default_factory=dict)
    fixed_slots: bool = False

    def select(self, rows: Int64[Tensor, " r"]) -> "DecodeCache":
        """Return a cache of the given rows in the given order; rows may be repeated, as beam search does."""
        keys, values, histories = (
            {name: tensor[rows] for name, tensor in part.items()} for part in (self.keys, self.values, self.histories)
        )
        return DecodeCache(self.lengths[rows], keys, values, histories, self.fixed_slots)


class TokenStream:
    """One pass: `counts[b]` tokens of row b, after those that `past` remembers."""

    def __init__(
        self,
        inputs: Shaped[Tensor, "b t *rest"],
        counts: Int64[Tensor, " b"] | None,
        past: DecodeCache | None,
        remember: bool,
    ) -> None:
        """Set up a pass over the rows and columns of `inputs`; without `counts` every column of a row is a token."""
        self._rows, self._columns = inputs.shape[:2]
        self._counts = counts
        self._past = past
        self._remember = remember
        self._positions: Tensor | None = None
        self._keys: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}
        self._histories: dict[str, Tensor] = {}
        self._tables: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}
        self._ends: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def positions(self, device: torch.device) -> Int64[Tensor, "b t"]:
        """Return the number of tokens before each token in its row."""
        if self._positions is None:
            columns = torch.arange(self._columns, device=device).expand(self._rows, self._columns)
            self._positions = columns if self._past is None else columns + self._past.lengths.unsqueeze(-1)
        return self._positions

    def rotary_tables(
        self, rotary: RotaryEmbedding, device: torch.device
    ) -> tuple[Float[Tensor, "b t 1 r"], Float[Tensor, "b t 1 r"]]:
        """Return the rotation of each token, computed once for all layers that rotate alike."""
        key = (rotary.rotated, rotary.base)
        if key not in self._tables:
            self._tables[key] = rotary.tables(self.positions(device))
        return self._tables[key]

    def history(self, name: str, inputs: Float[Tensor, "b t *c"], reach: int) -> Float[Tensor, "b r *c"]:
        """Return the `reach` inputs before `inputs`, the oldest first, zeros where there were none."""
        if self._past is not None and reach:
            return self._past.histories[name]
        return inputs.new_zeros(inputs.shape[0], reach, *inputs.shape[2:])

    def remember(self, name: str, history: Float[Tensor, "b r *c"], inputs: Float[Tensor, "b t *c"]) -> None:
        """Keep what of `history` and the `inputs` after it the next pass will ask for as its history."""
        reach = history.shape[1]
        if not self._remember or not reach:
            return
        if not inputs.shape[1]:
            self._histories[name] = history
            return
        if reach not in self._ends:
            self._ends[reach] = self._end(reach, inputs.device)
        is_older, *places = self._ends[reach]
        older, newer = (
            part.flatten(0, 1).index_select(0, at).unflatten(0, is_older.shape)
            for part, at in zip((history, inputs), places, strict=True)
        )
        self._histories[name] = torch.where(is_older.view(*is_older.shape, *(1,) * (inputs.ndim - 2)), older, newer)

    def window(self, name: str, inputs: Float[Tensor, "b t *c"], reach: int) -> Float[Tensor, "b s *c"]:
        """Return `inputs` behind their history, and remember them."""
        if reach == 0:
            return inputs
        history = self.history(name, inputs, reach)
        self.remember(name, history, inputs)
        return torch.cat([history, inputs], dim=1)

    def attend(
        self,
        name: str,
        query: Float[Tensor, "b t h w"],
        key: Float[Tensor, "b t h w"],
        value: Float[Tensor, "b t h w"],
    ) -> Float[Tensor, "b t h w"]:
        """Return what each token attends to, among itself and the tokens before it, of this pass and of earlier ones.

        Keys and values are kept for the next pass under `name`.
        """
        if self._past is None:
            query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            self._keys[name], self._values[name] = key, value
            return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)
        keys, values = (self._with_room(tensors[name]) for tensors in (self._past.keys, self._past.values))
        heads, keys, values = cached_attention(query, key, value, keys, values, self.positions(query.device))
        self._keys[name], self._values[name] = keys, values
        return heads

    def cache(self, device: torch.device) -> DecodeCache:
        """Return what the next pass needs."""
        before = self._past.lengths if self._past is not None else 0
        fixed_slots = self._past is not None and self._past.fixed_slots
        lengths = self._counts_on(device) + before
        return DecodeCache(lengths, self._keys, self._values, self._histories, fixed_slots)

    def _with_room(self, slots: Float[Tensor, "b h s w"]) -> Float[Tensor, "b h s2 w"]:
        """Return the keys or values of the past with free slots for every column of this pass."""
        assert self._past is not None
        if self._past.fixed_slots:
            return slots
        # Padding columns land behind the row's last token, where the next tokens overwrite them.
        needed = int(self._past.lengths.max()) + self._columns if self._rows else 0
        return F.pad(slots, (0, 0, 0, max(0, needed - slots.shape[2])))

    def _end(
        self, reach: int, device: torch.device
    ) -> tuple[Bool[Tensor, "b r"], Int64[Tensor, " br"], Int64[Tensor, " br"]]:
        """Return where the last `reach` inputs of each row are: which of them in its history, and the places in both.

        Places count all rows on end. Joining history and inputs would be simpler, and copy all inputs.
        """
        rows = torch.arange(self._rows, device=device).unsqueeze(-1)
        last = self._counts_on(device).unsqueeze(-1) + torch.arange(reach, device=device)
        in_history = rows * reach + last.clamp(max=reach - 1)
        in_inputs = rows * self._columns + (last - reach).clamp(min=0)
        return last < reach, in_history.flatten(), in_inputs.flatten()

    def _counts_on(self, device: torch.device) -> Tensor:
        if self._counts is None:
            return torch.full((self._rows,), self._columns, device=device)
        return self._counts


def whole_pass(inputs: Tensor) -> TokenStream:
    """Return the stream of a pass over whole rows that nothing precedes and nothing follows."""
    return TokenStream(inputs, None, None, remember=False)
