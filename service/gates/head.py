"""How words or classes are read off states, outside the graph: the lens, and what each site adds to a logit."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from service.bundle import Bundle
from service.bundle import Head as HeadPart
from service.errors import BundleInvalid
from service.gates.depth import Depth

Array = NDArray[np.float64]
Ids = NDArray[np.int64]
_TINY = np.finfo(np.float64).tiny
TOKENS_AXES = 3
"""Axes of a compressor that looks back over tokens."""


@dataclass(frozen=True, eq=False)
class Head:
    """Compressor (d, dv) or (d, dv, taps), norm (d), weight (classes, d), bias; see `service.manifest.gates.Head`."""

    part: HeadPart
    compressor: Array
    norm: Array
    weight: NDArray[np.float32]
    bias: NDArray[np.float32] | None

    @property
    def over_tokens(self) -> bool:
        """Whether a position is read from the states of several."""
        return self.compressor.ndim == TOKENS_AXES

    @property
    def needs_all(self) -> bool:
        """Whether one position cannot be read without the others."""
        return self.over_tokens or self.part.pooled

    def hidden(self, states: Array) -> Array:
        """Return what the linear head reads of states (n, d, dv): (n, d), or (1, d) where it pools."""
        read = self._compress(states)
        scale = np.sqrt(np.square(read).mean(-1, keepdims=True) + self.part.norm_eps)
        read = read / scale * self.norm
        return np.asarray(read.mean(0, keepdims=True) if self.part.pooled else read)

    def logits(self, hidden: Array) -> NDArray[np.float32]:
        """Return (n, classes)."""
        product = hidden.astype(np.float32) @ self.weight.T * np.float32(self.part.scale)
        return np.asarray(product if self.bias is None else product + self.bias)

    def rows(self, targets: Ids) -> Array:
        """Return the head's rows of targets, with its scale, (..., d)."""
        return self.weight[np.maximum(targets, 0)].astype(np.float64) * self.part.scale

    def _compress(self, states: Array) -> Array:
        if not self.over_tokens:
            return np.asarray((states * self.compressor).sum(-1))
        taps = self.compressor.shape[-1]
        window = np.concatenate([np.zeros((taps - 1, *states.shape[1:])), states])
        seen = (window[tap : tap + len(states)] * self.compressor[..., tap] for tap in range(taps))
        return np.asarray(sum(part.sum(-1) for part in seen))


def read_head(bundle: Bundle) -> Head | None:
    """Read the head of a bundle, or None if it has none.

    Raises:
        BundleInvalid: the file cannot be read or lacks a tensor.
    """
    gates = bundle.manifest.gates
    if gates is None or gates.depth is None:
        return None
    path: Path = bundle.folder / gates.depth.head.file
    try:
        tensors = load_file(path)
        compressor, norm = (tensors[name].astype(np.float64) for name in ("compressor", "norm"))
        return Head(gates.depth.head, compressor, norm, tensors["weight"], tensors.get("bias"))
    except (OSError, SafetensorError, KeyError) as error:
        raise BundleInvalid(f"{path} cannot be read as a head: {error}") from error


def log_softmax(logits: NDArray[Any]) -> Array:
    """Return log-probabilities over the last axis."""
    exact = logits.astype(np.float64)
    exact = exact - exact.max(-1, keepdims=True)
    return np.asarray(exact - np.log(np.exp(exact).sum(-1, keepdims=True)))


def divergence(first: Array, second: Array) -> Array:
    """Return KL(first || second) of log-probabilities, over the last axis."""
    return np.asarray((np.exp(first) * (first - second)).sum(-1))


@dataclass(frozen=True, eq=False)
class _Words:
    """The distribution at one site beside the final one; `target` (n,) holds -1 where there is none."""

    logprobs: Array
    final: Array
    target: Ids
    top_k: int

    @property
    def top(self) -> Ids:
        return np.asarray(np.argsort(-self.logprobs, axis=-1, kind="stable")[..., : self.top_k])

    @property
    def of_target(self) -> Array:
        found = np.take_along_axis(self.logprobs, np.maximum(self.target, 0)[..., None], -1)[..., 0]
        return np.where(self.target < 0, np.nan, found)


_LENS: dict[str, Callable[[_Words], NDArray[Any]]] = {
    "lens_topk": lambda words: words.top,
    "lens_topk_logprob": lambda words: np.take_along_axis(words.logprobs, words.top, -1),
    "lens_kl": lambda words: divergence(words.final, words.logprobs),
    "lens_entropy": lambda words: np.asarray(-(np.exp(words.logprobs) * words.logprobs).sum(-1)),
    "lens_target_logprob": lambda words: words.of_target,
    "lens_target_rank": lambda words: np.where(
        words.target < 0, -1, (words.logprobs > words.of_target[..., None]).sum(-1)
    ),
}


def lens(
    names: Collection[str],
    head: Head,
    hidden: Iterable[Array],
    final: NDArray[Any],
    targets: Ids,
    top_k: int,
) -> dict[str, NDArray[Any]]:
    """Return the named quantities of the lens, (site, position, ...).

    `hidden` is what the head reads after each site, `final` the logits of these positions, `targets` (position, n).
    """
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    last = log_softmax(final)
    for read in hidden:
        words = _Words(log_softmax(head.logits(read)), last, targets[..., 0], top_k)
        for name in names:
            found[name].append(_LENS[name](words))
    return {name: np.stack(per_site) for name, per_site in found.items()}


def attribution(names: Collection[str], head: Head, path: Depth, targets: Ids, count: int) -> dict[str, Array]:
    """Return `logit_contrib` (S + 1, n, targets) and `readout_alignment` (S, n, targets) where named.

    `targets` are (n, targets). A pooled head gives each of its `count` positions its share of the mean.
    """
    found: dict[str, Array] = {}
    rows = head.rows(targets)
    written = path.v @ head.compressor.T
    if "logit_contrib" in names:
        first = (path.kept_first * head.compressor).sum(-1)[:, None]
        parts = np.concatenate([first, path.write[..., None] * path.survivors * written], 1)
        scale = np.sqrt(np.square(parts.sum(1)).mean(-1) + head.part.norm_eps)[:, None, None]
        share = count if head.part.pooled else 1
        found["logit_contrib"] = ((parts / scale * head.norm) @ rows.swapaxes(-1, -2)).swapaxes(0, 1) / share
    if "readout_alignment" in names:
        seen = _unit(path.write[..., None] * path.k * written)
        found["readout_alignment"] = (seen @ _unit(rows).swapaxes(-1, -2)).swapaxes(0, 1)
    return {name: np.where(targets < 0, np.nan, values) for name, values in found.items()}


def choose_targets(
    asked: str | Sequence[int], positions: Sequence[int], logits: NDArray[Any], tokens: Sequence[int] | None
) -> Ids:
    """Return the words to look at in each position, (n, targets): -1 where there is none."""
    if isinstance(asked, str):
        if asked == "predicted" or tokens is None:
            return np.asarray(logits.argmax(-1)[:, None], np.int64)
        following = [tokens[place + 1] if place + 1 < len(tokens) else -1 for place in positions]
        return np.array(following, np.int64)[:, None]
    return np.tile(np.array(asked, np.int64), (len(logits), 1))


def _unit(vectors: Array) -> Array:
    largest = np.abs(vectors).max(-1, keepdims=True)
    near_one = vectors / np.where(largest > 0, largest, 1.0)
    return np.asarray(near_one / np.maximum(np.linalg.norm(near_one, axis=-1, keepdims=True), _TINY))
