"""The chat template of a language model's bundle, tried before it is put in."""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from export.kind import Kind
from export.language.bundle import LanguageBundle
from export.source import ExportError
from service.chat import ChatTemplate
from service.errors import ServiceError
from service.text import END_OF_TEXT

_QUESTION = "What does a delta rule move?"
_CONVERSATION = (
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello! What would you like to know?"},
    {"role": "user", "content": _QUESTION},
)


def with_chat_template(kind: Kind, path: Path) -> LanguageBundle:
    """Return a language model as one of conversations, whose prompts a Jinja2 template makes.

    The template has to make a prompt of a small conversation in the sandbox in which the service runs it.

    Raises:
        ExportError: the model takes no texts, or the template is no template, refuses the conversation or leaves the
            last message out.
    """
    if not isinstance(kind, LanguageBundle):
        raise ExportError("a chat template is for language models; leave --chat-template out")
    if not kind.checkpoint.tokenizer:
        raise ExportError("a chat template makes texts, and the checkpoint has no tokenizer to read them")
    knows_end = Tokenizer.from_str(kind.checkpoint.tokenizer).token_to_id(END_OF_TEXT) is not None
    end_of_text = END_OF_TEXT if knows_end else ""
    try:
        template = ChatTemplate.read(path)
        prompts = [
            template.render(_CONVERSATION, end_of_text=end_of_text, begins_answer=begins_answer)
            for begins_answer in (True, False)
        ]
    except ServiceError as error:
        raise ExportError(f"--chat-template {path}: {error}") from error
    if not all(_QUESTION in prompt for prompt in prompts):
        raise ExportError(
            f"--chat-template {path}: the prompt lacks the last message of a small conversation; a template reads "
            f"`messages`, each with `role` and `content`. It made {prompts[0][:200]!r}"
        )
    return replace(kind, chat_template=path.read_bytes())
