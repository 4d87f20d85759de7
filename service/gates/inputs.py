"""From the inputs of a request to what graphs take, and the tokens that are echoed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InputTooLong, InvalidFields, TaskMismatch
from service.gates.request import MAX_BATCH, GatesInputs
from service.gates.subject import Input, Subject
from service.protocol.tensors import check_shape, from_json
from service.text import TextTokenizer

_INVERTED = "the border of the image has the other brightness than the model's background: the image was inverted"
_CONTINUATION = range(0x80, 0xC0)
"""Bytes that go on with a character of UTF-8."""


@dataclass(frozen=True)
class Bounds:
    """What a request may take; `decode_base64` makes bytes of an image in JSON."""

    json_cells: int
    binary_cells: int
    max_positions: int
    max_image_pixels: int
    decode_base64: Callable[[str], bytes]


def read_inputs(subject: Subject, asked: GatesInputs, bounds: Bounds) -> tuple[list[Input], list[str]]:
    """Return the inputs, each checked, and warnings about them.

    Raises:
        TaskMismatch: the model takes another kind of input.
        InvalidFields: there are too many, one is empty, or a token is outside the vocabulary.
        InputTooLong: one has more positions than are traced.
        InvalidTensor, InvalidImage: an image or tensor is not what the model takes.
    """
    if subject.labels is not None:
        return _images(subject, asked, bounds)
    if asked.prompt is None and asked.token_ids is None:
        raise TaskMismatch(f"{subject.manifest.name!r} reads text: give inputs.prompt or inputs.token_ids")
    texts = _token_lists(subject, asked)
    if len(texts) > MAX_BATCH:
        raise InvalidFields(f"inputs: {len(texts)} inputs, at most {MAX_BATCH} in one request")
    vocabulary = subject.vocabulary
    assert vocabulary is not None
    found = []
    for ids in texts:
        if not ids:
            raise InvalidFields("inputs: a text without tokens has no gates")
        if len(ids) > bounds.max_positions:
            raise InputTooLong(
                f"the input has {len(ids)} tokens, at most {bounds.max_positions} are traced",
                positions=len(ids),
                max_positions=bounds.max_positions,
            )
        if max(ids) >= vocabulary:
            raise InvalidFields(f"inputs: token {max(ids)} is outside the vocabulary of {vocabulary}")
        found.append(Input(np.array([ids], np.int64), len(ids), tuple(ids)))
    return found, []


def token_echo(subject: Subject, one: Input) -> dict[str, Any] | None:
    """Return ids, texts and flags of an input's tokens; None for a model without tokens.

    A continuation begins inside a character that the token before has begun.
    """
    if one.tokens is None:
        return None
    tokenizer = subject.tokenizer
    return {
        "ids": list(one.tokens),
        "text": [word(tokenizer, token) for token in one.tokens],
        "is_special": [_is_special(tokenizer, token) for token in one.tokens],
        "is_continuation": [_continues(tokenizer, token) for token in one.tokens],
        "position_offset": 0,
    }


def word(tokenizer: TextTokenizer | None, token: int) -> str | None:
    """Return the text of a token alone; None without a tokenizer."""
    return None if tokenizer is None else tokenizer.token_text(token)


def _token_lists(subject: Subject, asked: GatesInputs) -> list[list[int]]:
    if asked.prompt is not None:
        if subject.tokenizer is None:
            raise TaskMismatch(f"{subject.manifest.name!r} has no tokenizer: give inputs.token_ids")
        prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
        return [subject.tokenizer.encode(prompt) for prompt in prompts]
    ids: list[Any] = list(asked.token_ids or [])
    return ids if ids and isinstance(ids[0], list) else [ids]


def _images(subject: Subject, asked: GatesInputs, bounds: Bounds) -> tuple[list[Input], list[str]]:
    if asked.tensor is None and asked.image is None:
        raise TaskMismatch(f"{subject.manifest.name!r} reads images: give inputs.image or inputs.tensor")
    warnings: list[str] = []
    feed: NDArray[Any]
    if asked.tensor is not None:
        check_shape(subject.manifest.graph.inputs[0], "FP32", asked.tensor.shape, MAX_BATCH)
        feed = from_json("tensor", asked.tensor.data, asked.tensor.shape, "FP32")
    else:
        from service.image import pixels_from_image  # loaded when the model was opened

        image = subject.manifest.classification.image
        pixels = pixels_from_image(bounds.decode_base64(asked.image or ""), image, bounds.max_image_pixels)
        feed = pixels.tensor
        if pixels.inverted:
            warnings.append(_INVERTED)
    count = subject.fixed_positions
    assert count is not None
    return [Input(feed[row : row + 1], count) for row in range(len(feed))], warnings


def _is_special(tokenizer: TextTokenizer | None, token: int) -> bool:
    return (
        tokenizer is not None and bool(tokenizer.decode([token], skip_special=False)) and not tokenizer.decode([token])
    )


def _continues(tokenizer: TextTokenizer | None, token: int) -> bool:
    spelled = tokenizer.token_bytes(token) if tokenizer is not None else None
    return bool(spelled and spelled[0] in _CONTINUATION)
