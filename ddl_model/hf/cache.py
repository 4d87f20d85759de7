"""Our cache behind the interface that `generate()` expects of caches."""

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from ddl_model.token_stream import DecodeCache


class DeltaCache(Cache):
    """A `DecodeCache` that changes in place, as `generate()` expects of caches. A new one is empty.

    Its length is in columns, padding included, as attention masks have them.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self) -> None:
        """Start before the first token."""
        super().__init__(layers=[])
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.decode: DecodeCache | None = None
        self._columns = 0

    def put(self, decode: DecodeCache, columns: int) -> None:
        """Keep what a pass over `columns` more columns returned."""
        self.decode = decode
        self._columns += columns

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of columns seen, padding included."""
        return self._columns

    def __len__(self) -> int:
        return 0 if self.decode is None else len(self.decode.keys)

    @property
    def batch_size(self) -> int:
        """Rows, or -1 while the cache is empty."""
        return -1 if self.decode is None else len(self.decode.lengths)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the given rows in the given order, as beam search does."""
        if self.decode is not None:
            self.decode = self.decode.select(beam_idx.to(self.decode.lengths))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row, for example to continue one prompt several times."""
        if self.decode is not None:
            self.reorder_cache(torch.arange(self.batch_size).repeat_interleave(repeats))

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeltaCache":
        return copy.copy(self)  # what it holds never changes, so copies can share it

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to go back: of what convolutions saw, only the last inputs are kept.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a DeltaCache cannot be cropped: keep a copy.deepcopy of it from before those tokens")
