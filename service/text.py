"""Text and tokens: a bundle's tokenizer, text that appears token by token, and the strings that end it.

The library of tokenizers is imported when the first tokenizer is read: a service of classifiers need not hold it.
"""

import codecs
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from service.errors import BundleInvalid

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""The token between documents, in the tokenizers that this project trains and in those that it was modelled on."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so tokens, that a single character can be spread over."""


class Detokenizer(Protocol):
    """Turns the tokens of one text into pieces that add up to it; no piece ends in half a character."""

    def add(self, token: int) -> str:
        """Return what the token adds to the text, perhaps nothing yet."""
        ...

    def flush(self) -> str:
        """Return what is held back, when no more tokens come; bytes that are no character become U+FFFD."""
        ...


class TextTokenizer:
    """A bundle's tokenizer. Threads may share it; each text that appears token by token has a `Detokenizer`."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        """Wrap a tokenizer of the library."""
        self._tokenizer = tokenizer
        self.end_of_text: int | None = tokenizer.token_to_id(END_OF_TEXT)
        description = json.loads(tokenizer.to_str())
        self._bytes: list[bytes] | None = None
        if (description["decoder"] or {}).get("type") == "ByteLevel":
            special = {token["id"] for token in description["added_tokens"] if token["special"]}
            self._bytes = _token_bytes(tokenizer, special)

    @classmethod
    def read(cls, path: Path) -> "TextTokenizer":
        """Read `tokenizer.json`.

        Raises:
            BundleInvalid: it cannot be read or is no tokenizer.
        """
        from tokenizers import Tokenizer

        try:
            return cls(Tokenizer.from_str(path.read_text(encoding="utf-8")))
        except Exception as error:  # the library raises nothing narrower
            raise BundleInvalid(f"{path} is no tokenizer: {error}") from error

    def encode(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Return the tokens of a text; with those that the tokenizer itself puts around it, if wanted."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special_tokens).ids
        return ids

    def decode(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """Return the text of tokens, all at once."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=skip_special)
        return text

    @property
    def json(self) -> str:
        """The content of `tokenizer.json`."""
        text: str = self._tokenizer.to_str()
        return text

    def token_bytes(self, token: int) -> bytes | None:
        """Return the bytes that a token stands for; None where tokens are not made of bytes."""
        if self._bytes is None:
            return None
        return self._bytes[token] if 0 <= token < len(self._bytes) else b""

    def token_text(self, token: int) -> str:
        """Return the text of one token alone; bytes that are no text become U+FFFD, special tokens keep their names."""
        data = self.token_bytes(token)
        if data:
            return data.decode("utf-8", "replace")
        return self.decode([token], skip_special=False)

    def detokenizer(self) -> Detokenizer:
        """Begin a text that appears token by token; special tokens and unknown ones add nothing to it."""
        return _WindowText(self) if self._bytes is None else _ByteText(self._bytes)


class _ByteText:
    """The text of byte-level tokens: each stands for bytes of its own, whatever its neighbours are."""

    def __init__(self, table: list[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._table[token]) if 0 <= token < len(self._table) else ""

    def flush(self) -> str:
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class _WindowText:
    """The text of any other tokens: decoded together with the few before them, which may change how they read."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._window: list[int] = []
        self._told = 0  # tokens at the head of the window whose text is out
        self._halves = 0  # tokens since the text last ended in a whole character

    def add(self, token: int) -> str:
        self._window.append(token)
        text = self._tokenizer.decode(self._window)
        self._halves = self._halves + 1 if text.endswith(_REPLACEMENT) else 0
        return self._tell(text) if self._halves in (0, _LONGEST_CHARACTER) else ""

    def flush(self) -> str:
        return self._tell(self._tokenizer.decode(self._window))

    def _tell(self, text: str) -> str:
        new = text[len(self._tokenizer.decode(self._window[: self._told])) :]
        if new:
            self._window = self._window[self._told :]
            self._told = len(self._window)
            self._halves = 0
        return new


class StopStrings:
    """Cuts a text off where the first of some strings begins, also where it is spread over several pieces.

    What may be the beginning of such a string is held back until it is known. How the text is cut into pieces makes
    no difference: the string that is complete first counts, of two that end together the longer one.
    """

    def __init__(self, strings: Iterable[str]) -> None:
        """Watch for strings, none of them empty."""
        self._strings = tuple(strings)
        self._longest = max((len(string) for string in self._strings), default=1)
        self._held = ""
        self.found: str | None = None
        """The string that ended the text."""

    def add(self, piece: str) -> str:
        """Return what is certainly in front of any stop string; nothing comes after one was `found`."""
        if self.found is not None:
            return ""
        if not self._strings:
            return piece
        text = self._held + piece
        ends = [(text.find(string) + len(string), -len(string), string) for string in self._strings if string in text]
        if ends:
            end, length, self.found = min(ends)
            self._held = ""
            return text[: end + length]
        kept = min(len(text), self._longest - 1)
        while kept and not any(string.startswith(text[-kept:]) for string in self._strings):
            kept -= 1
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def flush(self) -> str:
        """Return what is held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _token_bytes(tokenizer: "Tokenizer", silent: set[int]) -> list[bytes]:
    """Return the bytes of every token; none for `silent` ones and for numbers that are no token."""
    vocabulary = tokenizer.get_vocab()
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    byte_of = {ord(character): byte for byte, character in _byte_characters().items()}
    for token, number in vocabulary.items():
        if number in silent:
            continue
        codes = [byte_of.get(ord(character)) for character in token]
        # Added tokens are written as they are; the alphabet of bytes lacks the space, for one.
        is_spelled = all(code is not None for code in codes)
        table[number] = bytes(code for code in codes if code is not None) if is_spelled else token.encode()
    return table


def _byte_characters() -> dict[int, str]:
    """Return the character that stands for each byte in byte-level vocabularies.

    Bytes that print in Latin-1 stand for themselves, the others for the characters from U+0100, in their order.
    """
    own = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + i) for i, byte in enumerate(others)}
