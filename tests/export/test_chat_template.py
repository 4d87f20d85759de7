"""Bundles of conversations: what the exporter makes of a template, and what it refuses."""

import hashlib
from pathlib import Path

import pytest

from ddl_model.checkpoint import TOKENIZER_NAME
from export.__main__ import main
from export.language.chat import with_chat_template
from export.pipeline import export_bundle
from export.source import ExportError, open_checkpoint
from export.trace import ExportedGraph
from service.bundle import LanguageModelling, read_bundle
from service.chat import ChatTemplate
from tests.export.text_checkpoint import save_text_checkpoint
from tests.service.openai.models import TEMPLATE

LAST = "{{ messages[-1].content }}"


def write(folder: Path, source: str = TEMPLATE) -> Path:
    path = folder / "talk.jinja"
    path.write_text(source, encoding="utf-8")
    return path


def test_a_template_becomes_part_of_the_bundle(
    text_checkpoint: Path, traced: dict[str, ExportedGraph], tmp_path: Path
) -> None:
    template, bundle = write(tmp_path), tmp_path / "models" / "talk" / "1"
    assert main([str(text_checkpoint), str(bundle), "--chat-template", str(template)]) == 0
    task = read_bundle(bundle).manifest.task
    assert isinstance(task, LanguageModelling)
    assert task.chat_template == "chat_template.jinja"
    kept = bundle / task.chat_template
    assert kept.read_bytes() == template.read_bytes()
    assert (
        f"{hashlib.sha256(kept.read_bytes()).hexdigest()}  chat_template.jinja" in (bundle / "SHA256SUMS").read_text()
    )
    prompt = ChatTemplate.read(kept).render([{"role": "user", "content": "a"}], end_of_text="", begins_answer=True)
    assert prompt == "user: a\nassistant:"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for %}", "cannot be read"),
        ("always the same", "lacks the last message .* It made 'always the same'"),
        ("{% if add_generation_prompt %}" + LAST + "{% endif %}", "lacks the last message"),
        ("{{ raise_exception('only one turn') }}", "only one turn"),
        ("{{ tools }}" + LAST, "'tools' is undefined"),
        ("{{ messages.append(1) }}" + LAST, "unsafe"),
    ],
)
def test_a_template_that_would_fail_in_the_service_is_refused(
    source: str, reason: str, text_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=f"--chat-template .*talk.jinja: .*{reason}"):
        export_bundle(text_checkpoint, tmp_path / "models" / "talk" / "1", chat_template=write(tmp_path, source))
    assert not (tmp_path / "models").exists()


def test_a_template_that_is_not_there_is_named(
    text_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, missing = tmp_path / "models" / "talk" / "1", tmp_path / "missing.jinja"
    assert main([str(text_checkpoint), str(bundle), "--chat-template", str(missing)]) == 1
    assert f"ddl-export: --chat-template {missing}: " in capsys.readouterr().err


def test_only_models_that_read_texts_take_one(tmp_path: Path) -> None:
    kind, _ = open_checkpoint(save_text_checkpoint(tmp_path / "run", tokenizer=""))
    with pytest.raises(ExportError, match="no tokenizer"):
        with_chat_template(kind, write(tmp_path))
    assert TOKENIZER_NAME not in kind.files()
