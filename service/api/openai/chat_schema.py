"""`/v1/chat/completions`: what is asked, and what is answered."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from service.api.answers import Answer
from service.api.openai.fields import Asked, GenerationFields, contradiction
from service.api.openai.usage import Gates, Timings, Usage
from service.engine.generation.request import MAX_LOGPROBS

MAX_MESSAGES = 4096


class TextPart(Asked):
    """A part of a message; these models read text alone."""

    type: Literal["text"]
    text: str


def _as_text(value: Any) -> Any:
    """Take a list of parts of text for the text; say in one sentence what else is not read."""
    if not isinstance(value, list):
        return value
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            kind = part.get("type") if isinstance(part, dict) else part
            raise PydanticCustomError(
                "unsupported", "must be a text or parts of type 'text', got {kind}", {"kind": repr(kind)[:64]}
            )
    return "".join(part["text"] for part in value)


class Message(Asked):
    """What one side of the conversation said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | list[TextPart])]
    name: str | None = Field(None, max_length=256)


class ChatRequest(GenerationFields):
    """A conversation to be continued."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int | None = Field(None, ge=1, lt=2**31, description="the older name of max_completion_tokens")
    max_completion_tokens: int | None = Field(
        None, ge=1, lt=2**31, description="longest answer in tokens; by default what fits behind the prompt"
    )
    logprobs: bool | None = Field(None, description="tell the log-probability of each token")
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS, description="so many alternatives; needs logprobs")
    add_generation_prompt: bool = Field(True, description="let the template put the head of an answer at the end")

    @model_validator(mode="after")
    def _fits_together_too(self) -> "ChatRequest":
        if self.top_logprobs and not self.logprobs:
            raise contradiction("top_logprobs", f"is {self.top_logprobs}, which needs logprobs=true")
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise contradiction("max_tokens", f"is {both[0]} and max_completion_tokens {both[1]}; give one of them")
        longest = self.longest
        if longest is not None and (self.min_tokens or 0) > longest:
            raise contradiction("min_tokens", f"is {self.min_tokens}, more than max_completion_tokens={longest}")
        return self

    @property
    def longest(self) -> int | None:
        """Longest answer, if the request says."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


class ChatToken(Answer):
    """A token, its log-probability, and its bytes."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatTokenRow(ChatToken):
    """A token of the answer, with the likeliest at its place."""

    top_logprobs: list[ChatToken]


class ChatLogprobs(Answer):
    """Log-probabilities of the answer's tokens, as the model alone sees them."""

    content: list[ChatTokenRow]


class AnswerMessage(Answer):
    """The answer."""

    role: Literal["assistant"]
    content: str


class ChatChoice(Answer):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    timings: Timings | None = None
    gates: Gates | None = None


class ChatCompletion(Answer):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Answer):
    """What a chunk adds to the message; the first says the role."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(Answer):
    """A part of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    timings: Timings | None = None
    gates: Gates | None = None


class ChatChunk(Answer):
    """A chunk of a stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
