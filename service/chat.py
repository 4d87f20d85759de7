"""Chat templates: from messages to the text of a prompt.

A template comes with the bundle, in Jinja2, as models on the Hugging Face hub have it. In its sandbox it sees the
messages and a few words of the tokenizer, and can change nothing. Jinja2 is imported for the first template.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from service.errors import BundleInvalid, InvalidFields

LONGEST_TEMPLATE = 64 * 1024
LONGEST_PROMPT = 4 * 1024 * 1024


class ChatTemplate:
    """A bundle's template. Threads may share it."""

    def __init__(self, source: str) -> None:
        """Compile it.

        Raises:
            BundleInvalid: it is too long, or not Jinja2.
        """
        from jinja2 import StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if len(source) > LONGEST_TEMPLATE:
            raise BundleInvalid(f"the chat template has {len(source)} characters, at most {LONGEST_TEMPLATE} are taken")
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
        environment.filters["tojson"] = _to_json
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BundleInvalid(f"the chat template cannot be read: {error}") from error

    @classmethod
    def read(cls, path: Path) -> "ChatTemplate":
        """Read a template from a bundle.

        Raises:
            BundleInvalid: it is no text, or not fit.
        """
        try:
            return cls(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise BundleInvalid(f"{path} cannot be read: {error}") from error

    def render(self, messages: Sequence[Mapping[str, object]], *, end_of_text: str, begins_answer: bool) -> str:
        """Return the prompt of a conversation; with `begins_answer` the head of the next answer stands at its end.

        Raises:
            InvalidFields: the template refuses these messages, or the prompt would be too long.
        """
        from jinja2 import TemplateError

        values = {
            "messages": [dict(message) for message in messages],
            "add_generation_prompt": begins_answer,
            "bos_token": end_of_text,
            "eos_token": end_of_text,
        }
        parts: list[str] = []
        length = 0
        try:
            for part in self._template.generate(values):
                length += len(part)
                if length > LONGEST_PROMPT:
                    raise _refused(f"the chat template makes more than {LONGEST_PROMPT} characters of them")
                parts.append(part)
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _refused(f"the model's chat template does not take them: {str(error)[:500]}") from error
        return "".join(parts)


def _raise(message: object) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(str(message))


def _now(form: str) -> str:
    return datetime.now().astimezone().strftime(form)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refused(sentence: str) -> InvalidFields:
    return InvalidFields(f"messages: {sentence}", field="messages", code="invalid_value")
