"""Text that appears token by token is the text that would be decoded at once, in whole characters."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from service.errors import BundleInvalid
from service.text import END_OF_TEXT, StopStrings, TextTokenizer, _byte_characters

TEXT = "a delta rule moves what is read, größer und schöner 🙂🙂 日本語 "


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT * 3], trainer)
    tokenizer.add_tokens([AddedToken("<a b>"), AddedToken("日本")])
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Words with a mark for the space in front, and bytes for what is no word, as SentencePiece has them."""
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "▁de", "lta", "s", "▁"]
    tokenizer = Tokenizer(
        models.BPE({token: i for i, token in enumerate(tokens)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


BYTE_LEVEL, BYTE_FALLBACK = TextTokenizer(byte_level()), TextTokenizer(byte_fallback())


def pieces(tokenizer: TextTokenizer, tokens: list[int]) -> list[str]:
    text = tokenizer.detokenizer()
    return [*(text.add(token) for token in tokens), text.flush()]


def test_the_alphabet_of_bytes_is_the_librarys() -> None:
    assert sorted(_byte_characters().values()) == sorted(pre_tokenizers.ByteLevel.alphabet())


@given(st.lists(st.integers(0, 301), max_size=40))
def test_pieces_of_byte_level_tokens_add_up_to_the_text(tokens: list[int]) -> None:
    assert "".join(pieces(BYTE_LEVEL, tokens)) == BYTE_LEVEL.decode(tokens)


@given(st.text(max_size=30))
def test_a_text_comes_back_and_no_character_is_halved(text: str) -> None:
    seen = pieces(BYTE_LEVEL, BYTE_LEVEL.encode(text))
    assert "".join(seen) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in seen)
    assert seen[-1] == ""


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    tokens = BYTE_LEVEL.encode("ok \N{CRAB}")
    *seen, last = pieces(BYTE_LEVEL, tokens[:-1])
    assert "".join(seen) == "ok "
    assert last == "\N{REPLACEMENT CHARACTER}"


@given(st.lists(st.sampled_from(["a", "é", "🙂", "<a b>", " ", "日"]), max_size=12))
def test_words_and_bytes_of_other_tokenizers_add_up_too(parts: list[str]) -> None:
    """Byte tokens between words: the window goes on where a character is whole."""
    words = {"a": [257], "<a b>": [258, 259], " ": [261]}
    tokens = [token for part in parts for token in words.get(part, [1 + byte for byte in part.encode()])]
    seen = pieces(BYTE_FALLBACK, tokens)
    assert "".join(seen) == BYTE_FALLBACK.decode(tokens)
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in seen)


def test_special_and_unknown_tokens_add_nothing() -> None:
    assert BYTE_LEVEL.end_of_text == 0
    assert BYTE_FALLBACK.end_of_text is None
    assert pieces(BYTE_LEVEL, [0, 5_000, -1, *BYTE_LEVEL.encode("<a b>")]) == ["", "", "", "<a b>", ""]
    assert BYTE_LEVEL.decode([0], skip_special=False) == END_OF_TEXT


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(BundleInvalid, match=r"tokenizer\.json is no tokenizer"):
        TextTokenizer.read(file)
    byte_level().save(str(file))
    assert TextTokenizer.read(file).encode(TEXT) == BYTE_LEVEL.encode(TEXT)


def cut(text: str, strings: list[str]) -> tuple[str, str | None]:
    """Return the text in front of the string that is complete first, and that string: the plain definition."""
    for end in range(len(text) + 1):
        complete = [string for string in strings if text[:end].endswith(string)]
        if complete:
            found = max(complete, key=len)
            return text[: end - len(found)], found
    return text, None


@given(st.text("ab", max_size=20), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_strings_cut_alike_however_the_text_is_split(text: str, strings: list[str], data: st.DataObject) -> None:
    expected, found = cut(text, strings)
    watch, seen, at = StopStrings(strings), "", 0
    while at < len(text):
        size = data.draw(st.integers(1, len(text) - at))
        seen += watch.add(text[at : at + size])
        assert expected.startswith(seen), "what is shown cannot be taken back"
        at += size
    assert watch.found == found
    assert seen + watch.flush() == expected


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    watch = StopStrings(["\n\n", "END"])
    assert [watch.add(piece) for piece in ("one\n", "two E", "N", "D!")] == ["one", "\ntwo ", "", ""]
    assert watch.found == "END"
    assert watch.add("more") == ""
    assert watch.flush() == ""
    assert re.fullmatch("x+", "".join(StopStrings([]).add("x") for _ in range(3)))
