"""`/v1/completions`: what is asked, and what is answered."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from service.api.answers import Answer
from service.api.openai.fields import MAX_VOCABULARY, GenerationFields, Token, contradiction
from service.api.openai.usage import Gates, Timings, Usage
from service.engine.generation.request import MAX_CHOICES, MAX_LOGPROBS

MAX_PROMPTS = 2048

Prompts = list[str] | list[Annotated[list[Token], Field(min_length=1)]]


def _as_prompts(value: Any) -> Any:
    """Take one prompt for a list of one, and say in one sentence what a prompt can be."""
    if isinstance(value, str):
        return [value]
    is_list = isinstance(value, list) and len(value) > 0
    flat = [t for part in value for t in (part if isinstance(part, list) else [part])] if is_list else []
    if wrong := [t for t in flat if isinstance(t, int) and not 0 <= t < MAX_VOCABULARY]:
        raise PydanticCustomError("prompt_value", "token ids begin at 0, got {token}", {"token": str(wrong[0])[:24]})
    if is_list and all(isinstance(part, str) for part in value):
        return value
    if is_list and all(isinstance(part, int) and not isinstance(part, bool) for part in value):
        return [value]
    if is_list and all(
        isinstance(part, list) and part and all(isinstance(t, int) and not isinstance(t, bool) for t in part)
        for part in value
    ):
        return value
    raise PydanticCustomError(
        "prompt_type",
        "must be a text, a list of texts, a list of token ids, or a list of such lists, none of them empty",
    )


class CompletionRequest(GenerationFields):
    """Prompts to be continued."""

    prompt: Annotated[
        Prompts,
        BeforeValidator(_as_prompts, json_schema_input_type=str | list[str] | list[Token] | list[list[Token]]),
    ] = Field(max_length=MAX_PROMPTS)
    max_tokens: int | None = Field(None, ge=0, lt=2**31, description="longest answer in tokens; 16 by default")
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES, description="answers made, the n likeliest are told")
    echo: bool | None = Field(None, description="begin each text with its prompt")
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="so many alternatives to each token")
    suffix: None = Field(None, description="not served: these models only continue texts")
    add_special_tokens: bool = Field(False, description="put the tokenizer's own tokens around each text")

    @model_validator(mode="before")
    @classmethod
    def _no_suffix(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("suffix") is not None:
            raise PydanticCustomError(
                "unsupported", "suffix is not served: these models only continue texts; leave it out"
            )
        return value

    @model_validator(mode="after")
    def _fits_together_too(self) -> "CompletionRequest":
        if self.max_tokens == 0 and not self.echo:
            raise contradiction("max_tokens", "is 0: nothing would be answered; set it to 1 or more, or echo=true")
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise contradiction("min_tokens", f"is {self.min_tokens}, more than max_tokens={self.max_tokens}")
        if self.best_of is not None and self.best_of < (self.n or 1):
            raise contradiction("best_of", f"is {self.best_of}, less than n={self.n or 1}")
        return self


class CompletionLogprobs(Answer):
    r"""Log-probabilities of the tokens of a text, as the model alone sees them.

    Tokens that are no text of their own are written `bytes:\xNN`. `text_offset` is where a token begins in `text`.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Answer):
    """One text; in a stream, a part of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    timings: Timings | None = None
    gates: Gates | None = None


class Completion(Answer):
    """The answer, or a chunk of it in a stream: there the parts of a choice's text add up to it."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None
