"""What a forward pass over tokens knows of the tokens before it, and leaves for the pass after it.

Prefill, decode and the full forward are one path. Each module that looks back in time (attention, token convolutions,
token shifts) asks the stream; whether the earlier tokens are in the same pass or in a cache makes no difference to it.
A cache is never changed: a pass returns a new one, so the same cache may be continued twice.

Rows may have different lengths. Inside a pass the tokens of a row start at its first column, and columns at or after
its count are padding: nothing causal ever sees them, and nothing of them is remembered.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from ddl_model.rope import RotaryEmbedding


@dataclass(frozen=True)
class DecodeCache:
    """Everything that later tokens need of earlier ones.

    `keys` and `values` hold one tensor (b, heads, slots, head width) per layer; row b fills its first `lengths[b]`
    slots. `histories` hold, by name, the last inputs of each token convolution or shift, (b, reach, channels), with
    zeros before a row's first token.
    """

    lengths: Int64[Tensor, " b"]
    keys: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    histories: dict[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Int64[Tensor, " r"]) -> "DecodeCache":
        """Return a cache of the given rows in the given order; rows may be repeated, as beam search does."""
        return DecodeCache(
            self.lengths[rows],
            *(
                {name: tensor[rows] for name, tensor in part.items()}
                for part in (self.keys, self.values, self.histories)
            ),
        )


class TokenStream:
    """One pass: `counts[b]` tokens of row b, after those that `past` remembers."""

    def __init__(
        self, shape: tuple[int, int], counts: Int64[Tensor, " b"] | None, past: DecodeCache | None, remember: bool
    ) -> None:
        """Set up a pass over (rows, columns) tokens; without `counts` every column of every row is a token."""
        self._rows, self._columns = shape
        self._counts = counts
        self._past = past
        self._remember = remember
        self._keys: dict[str, Tensor] = {}
        self._values: dict[str, Tensor] = {}
        self._histories: dict[str, Tensor] = {}
        self._tables: dict[tuple[int, float], tuple[Tensor, Tensor]] = {}

    def positions(self, device: torch.device) -> Int64[Tensor, "b t"]:
        """Return the number of tokens before each token in its row."""
        columns = torch.arange(self._columns, device=device).expand(self._rows, self._columns)
        return columns if self._past is None else columns + self._past.lengths.unsqueeze(-1)

    def rotary_tables(
        self, rotary: RotaryEmbedding, device: torch.device
    ) -> tuple[Float[Tensor, "b 1 t r"], Float[Tensor, "b 1 t r"]]:
        """Return the rotation of each token, computed once for all layers that rotate alike."""
        key = (rotary.rotated, rotary.base)
        if key not in self._tables:
            self._tables[key] = rotary.tables(self.positions(device))
        return self._tables[key]

    def history(self, name: str, inputs: Float[Tensor, "b t c"], reach: int) -> Float[Tensor, "b r c"]:
        """Return the `reach` inputs before `inputs`, the oldest first, zeros where there were none."""
        if self._past is not None and reach:
            return self._past.histories[name]
        return inputs.new_zeros(inputs.shape[0], reach, inputs.shape[2])

    def remember(self, name: str, history: Float[Tensor, "b r c"], inputs: Float[Tensor, "b t c"]) -> None:
        """Keep what of `history` and the `inputs` after it the next pass will ask for as its history."""
        reach = history.shape[1]
        if self._remember and reach:
            last = self._counts_on(inputs.device).unsqueeze(-1) + torch.arange(reach, device=inputs.device)
            window = torch.cat([history, inputs], dim=1)
            self._histories[name] = window.gather(1, last.unsqueeze(-1).expand(-1, -1, inputs.shape[2]))

    def window(self, name: str, inputs: Float[Tensor, "b t c"], reach: int) -> Float[Tensor, "b s c"]:
        """Return `inputs` behind their history, and remember them."""
        if reach == 0:
            return inputs
        history = self.history(name, inputs, reach)
        self.remember(name, history, inputs)
        return torch.cat([history, inputs], dim=1)

    def keys_and_values(
        self, name: str, keys: Float[Tensor, "b h t w"], values: Float[Tensor, "b h t w"]
    ) -> tuple[Float[Tensor, "b h s w"], Float[Tensor, "b h s w"], Bool[Tensor, "b 1 t s"] | None]:
        """Return the keys and values that this pass may attend to, and which of them each token sees.

        No mask means plain causal attention among the tokens of this pass.
        """
        if self._past is None:
            self._keys[name], self._values[name] = keys, values
            return keys, values, None
        past = self._past
        slots = past.keys[name].shape[2]
        places = past.lengths.unsqueeze(-1) + torch.arange(self._columns, device=keys.device)
        # Padding columns land behind the row's last token, where the next tokens overwrite them.
        needed = int(past.lengths.max()) + self._columns if self._rows else 0
        index = places[:, None, :, None].expand_as(keys)
        joined = []
        for old, new in ((past.keys[name], keys), (past.values[name], values)):
            grown = torch.nn.functional.pad(old, (0, 0, 0, max(0, needed - slots)))
            joined.append(grown.scatter(2, index, new))
        self._keys[name], self._values[name] = joined
        seen = torch.arange(joined[0].shape[2], device=keys.device) <= places.unsqueeze(-1)
        return joined[0], joined[1], seen.unsqueeze(1)

    def cache(self, device: torch.device) -> DecodeCache:
        """Return what the next pass needs."""
        before = self._past.lengths if self._past is not None else 0
        return DecodeCache(self._counts_on(device) + before, self._keys, self._values, self._histories)

    def _counts_on(self, device: torch.device) -> Tensor:
        if self._counts is None:
            return torch.full((self._rows,), self._columns, device=device)
        return self._counts


def whole_pass(inputs: Tensor) -> TokenStream:
    """Return the stream of a pass over whole rows that nothing precedes and nothing follows."""
    return TokenStream((inputs.shape[0], inputs.shape[1]), None, None, remember=False)
