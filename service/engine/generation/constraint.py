"""Answers that follow a JSON schema, a regular expression or a grammar: which tokens may come next.

The library is imported with the first compiler, in the thread that makes it.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidFields

if TYPE_CHECKING:
    import llguidance

_LONGEST = 1 << 18
"""Characters of a schema or grammar; longer ones cost seconds to compile."""
_WORD = 32
"""Tokens in one word of a mask."""
_COMPACT: dict[str, Any] = {"whitespace_flexible": False}
"""JSON in one form only: a model could go on with spaces until its tokens are used up."""


class Constraint:
    """A compiled constraint; each answer follows a copy of its own."""

    def __init__(self, matcher: "llguidance.LLMatcher", vocabulary: int) -> None:
        """Take a matcher at its beginning."""
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._words = np.zeros(-(-vocabulary // _WORD), np.int32)

    @property
    def is_met(self) -> bool:
        """Whether nothing can follow any more."""
        return bool(self._matcher.is_stopped())

    def begin(self) -> "Constraint":
        """Return a copy for one answer."""
        return Constraint(self._matcher.deep_copy(), self._vocabulary)

    def allowed(self) -> NDArray[np.bool_]:
        """Tell for each token whether it may come next.

        Raises:
            InvalidFields: the constraint became too complex to follow.
        """
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        self._check()
        return np.unpackbits(self._words.view(np.uint8), count=self._vocabulary, bitorder="little").view(np.bool_)

    def took(self, token: int) -> None:
        """Go on behind a token that was allowed.

        Raises:
            InvalidFields: the constraint became too complex to follow.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise _invalid("constraint", self._matcher.get_error())


class ConstraintCompiler:
    """Compiles constraints for the tokens of one tokenizer. Threads may share it."""

    def __init__(self, tokenizer: str, vocabulary: int, end_of_text: int) -> None:
        """Read `tokenizer`, the content of a tokenizer.json; takes about a second for 50,000 tokens."""
        import llguidance

        self._library = llguidance
        self._tokenizer = llguidance.LLTokenizer(tokenizer, n_vocab=vocabulary, eos_token=end_of_text)
        self._vocabulary = vocabulary

    def json_schema(self, schema: dict[str, Any] | bool) -> Constraint:
        """Return the constraint to JSON that a schema describes, without superfluous spaces.

        Raises:
            InvalidFields: the schema is wrong, too large, or uses what cannot be followed token by token.
        """
        values: dict[str, Any] = {} if schema is True else {"not": {}} if schema is False else schema
        if len(json.dumps(values)) > _LONGEST:
            raise _invalid("json_schema", f"has more than {_LONGEST} characters")
        try:
            grammar = self._library.LLMatcher.grammar_from_json_schema(values, overrides=_COMPACT)  # type: ignore[arg-type]
        except ValueError as error:
            raise _invalid("json_schema", str(error)) from error
        return self._compile("json_schema", grammar)

    def regex(self, pattern: str) -> Constraint:
        """Return the constraint to texts that a regular expression matches as a whole.

        Raises:
            InvalidFields: the pattern is wrong or too large.
        """
        _check_length("regex", pattern)
        return self._compile("regex", self._library.LLMatcher.grammar_from_regex(pattern))

    def grammar(self, rules: str) -> Constraint:
        """Return the constraint to texts that a grammar in Lark's notation describes.

        Raises:
            InvalidFields: the grammar is wrong or too large.
        """
        _check_length("grammar", rules)
        return self._compile("grammar", self._library.LLMatcher.grammar_from_lark(rules))

    def choice(self, texts: list[str]) -> Constraint:
        """Return the constraint to one of some texts.

        Raises:
            InvalidFields: there is none, or one is empty.
        """
        if not texts or not all(texts):
            raise _invalid("choice", "needs at least one text, and none of them empty")
        rules = "start: " + " | ".join(json.dumps(text) for text in texts)
        _check_length("choice", rules)
        return self._compile("choice", self._library.LLMatcher.grammar_from_lark(rules))

    def _compile(self, field: str, grammar: str) -> Constraint:
        matcher = self._library.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise _invalid(field, matcher.get_error())
        return Constraint(matcher, self._vocabulary)


def _check_length(field: str, text: str) -> None:
    if len(text) > _LONGEST:
        raise _invalid(field, f"has more than {_LONGEST} characters")


def _invalid(field: str, problem: str) -> InvalidFields:
    # The library draws the place over several lines; the first says what is wrong.
    return InvalidFields(f"{field} cannot be followed: {' '.join(problem.split())[:300]}", field=field)
