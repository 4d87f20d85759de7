"""Fields that completions and chats share, with their ranges, and what contradicts what."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from service.engine.generation.request import MAX_CHOICES, MAX_STOPS
from service.gates.frames import GatesField

MAX_VOCABULARY = 2**31
"""Above every token number; which ones a model has is looked at later."""


class Asked(BaseModel):
    """Base of bodies: unknown fields are refused, and nothing is turned from one type into another."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


def contradiction(field: str, sentence: str) -> PydanticCustomError:
    """Return the error of a field that another one speaks against."""
    return PydanticCustomError("contradiction", "{field} {sentence}", {"field": field, "sentence": sentence})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Token = Annotated[int, Field(ge=0, lt=MAX_VOCABULARY)]
Stops = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=1024)]],
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
    Field(max_length=MAX_STOPS),
]


class StreamOptions(Asked):
    """What a stream tells beside the text."""

    include_usage: bool = Field(False, description="one more chunk at the end, without choices, with the usage")


class JsonSchema(Asked):
    """The schema that an answer has to follow."""

    name: str | None = Field(None, max_length=256)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Asked):
    """What an answer has to be: any text, a JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise contradiction("json_schema", f"belongs to type json_schema and to no other, type is {self.type}")
        return self


class StructuredOutputs(Asked):
    """What an answer has to follow; exactly one of these."""

    json_: dict[str, Any] | None = Field(None, alias="json", description="a JSON schema")
    regex: str | None = Field(None, min_length=1, max_length=10_000, description="a regular expression, as a whole")
    choice: list[str] | None = Field(None, min_length=1, max_length=1000, description="one of these texts")
    grammar: str | None = Field(None, min_length=1, max_length=100_000, description="a grammar in Lark's notation")

    @model_validator(mode="after")
    def _is_one(self) -> "StructuredOutputs":
        given = [n for n, v in vars(self).items() if v is not None]
        if len(given) != 1:
            raise contradiction(
                "structured_outputs", f"needs exactly one of json, regex, choice, grammar; {len(given)} came"
            )
        return self


class GenerationFields(Asked):
    """How an answer is drawn, how long it is, and how it is told."""

    model: str = Field(min_length=1, max_length=1024, description="name or alias of a model")
    version: str | None = Field(None, max_length=64, description="another version of the model than the newest")
    temperature: float | None = Field(None, ge=0, le=100, description="0 takes the likeliest token; 1 by default")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=MAX_VOCABULARY, description="0 and -1 are all")
    min_p: float | None = Field(None, ge=0, le=1, description="least probability, as a share of the likeliest's")
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=10_000, description="added to the logit of a token, by its number"
    )
    seed: int | None = Field(None, ge=-(2**63), le=2**64 - 1, description="the same seed gives the same text")
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="answers to each prompt")
    min_tokens: int | None = Field(None, ge=0, lt=MAX_VOCABULARY)
    stop: Stops | None = Field(None, description="texts that end an answer; they are no part of it")
    stop_token_ids: list[Token] | None = Field(None, max_length=1024, description="tokens that end an answer")
    ignore_eos: bool = Field(False, description="take the end of text for a token like others")
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: int = Field(0, ge=0, lt=2**31, description="1 goes first; 0 is the middle")
    timeout: float | None = Field(None, gt=0, le=86_400, description="longest time in the queue, in seconds; then 504")
    timings: bool = Field(False, description="tell how long each answer waited and took")
    gates: GatesField | None = Field(
        None, description="tell what the rewrites did at each token; needs the scope gates"
    )
    user: str | None = Field(None, max_length=1024, description="passed over: the key says who asks")

    @model_validator(mode="after")
    def _fits_together(self) -> "GenerationFields":
        if self.stream_options is not None and not self.stream:
            raise contradiction("stream_options", "belongs to stream=true; leave it out or set that")
        structured = self.structured_outputs is not None
        if structured and self.response_format is not None and self.response_format.type != "text":
            raise contradiction(
                "structured_outputs", "and response_format say both what an answer has to be; choose one"
            )
        return self
