"""From the fields of a body to what the engine is asked."""

from functools import partial
from typing import Any

from starlette.requests import Request

from service.api.openai.fields import GenerationFields, ResponseFormat, StructuredOutputs
from service.api.state import in_worker, state_of
from service.engine.generation.constraint import Constraint
from service.engine.generation.language import Language
from service.engine.generation.request import GenerateRequest, SamplingParams
from service.errors import InvalidFields
from service.repository import Loaded


def find_model(request: Request, name: str, version: str | None) -> Loaded:
    """Return the model.

    Raises:
        UnknownModel, UnknownVersion: there is no such model; the field is in the details.
        ModelNotReady: it does not answer.
    """
    try:
        return state_of(request).repository.get(name, version)
    except Exception as error:
        if hasattr(error, "details"):
            error.details.setdefault("field", "model")
        raise


async def generation(
    request: Request, asked: GenerationFields, language: Language, *, max_tokens: int, **options: Any
) -> GenerateRequest:
    """Return what the engine is asked, but for the prompt, which is put in later; `options` are the engine's own.

    Raises:
        InvalidFields: a value is not one that the engine takes.
    """
    return GenerateRequest(
        prompt=(0,),
        sampling=_sampling(asked),
        max_tokens=max_tokens,
        min_tokens=asked.min_tokens or 0,
        stop=tuple(asked.stop or ()),
        stop_tokens=frozenset(asked.stop_token_ids or ()),
        ignore_end=asked.ignore_eos,
        n=asked.n or 1,
        stream=bool(asked.stream),
        priority=asked.priority,
        deadline_seconds=asked.timeout,
        caller=request.state.caller.account,
        constraint=await _constraint(request, asked, language),
        **options,
    )


def _sampling(asked: GenerationFields) -> SamplingParams:
    top_k = asked.top_k or 0
    return SamplingParams(
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_k=max(top_k, 0),
        top_p=1.0 if asked.top_p is None else asked.top_p,
        min_p=asked.min_p or 0.0,
        repetition_penalty=1.0 if asked.repetition_penalty is None else asked.repetition_penalty,
        frequency_penalty=asked.frequency_penalty or 0.0,
        presence_penalty=asked.presence_penalty or 0.0,
        logit_bias=_biases(asked.logit_bias or {}),
        seed=asked.seed,
    )


def _biases(given: dict[str, float]) -> dict[int, float]:
    for name in given:
        if not (name.isascii() and name.isdecimal() and len(name) < 11):
            raise InvalidFields(
                f"logit_bias names tokens by their numbers, got {name[:64]!r}; the path tokenize tells them",
                field="logit_bias",
                code="invalid_value",
            )
    return {int(name): bias for name, bias in given.items()}


async def _constraint(request: Request, asked: GenerationFields, language: Language) -> Constraint | None:
    wishes = _structure(asked.structured_outputs) or _format(asked.response_format)
    if not wishes:
        return None
    return await in_worker(request, partial(language.compile, **wishes))


def _structure(asked: StructuredOutputs | None) -> dict[str, Any]:
    if asked is None:
        return {}
    fields = {"json_schema": asked.json_, "regex": asked.regex, "choice": asked.choice, "grammar": asked.grammar}
    return {name: value for name, value in fields.items() if value is not None}


def _format(asked: ResponseFormat | None) -> dict[str, Any]:
    if asked is None or asked.type == "text":
        return {}
    return {"json_object": True} if asked.json_schema is None else {"json_schema": asked.json_schema.schema_}
