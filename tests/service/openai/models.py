"""A repository of three tiny models: a language model, the same with a chat template, an image classifier."""

import json
import shutil
from pathlib import Path

from service.bundle import write_checksums
from tests.service.tiny_bundle import BundleMaker

TEMPLATE = """\
{%- for message in messages %}
{%- if message.role == 'system' and not loop.first %}{{ raise_exception('system goes first') }}{% endif %}
{{- message.role }}: {{ message.content }}
{% endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""


def write_text_models(root: Path, bundle: Path, *, slot_tokens: int) -> None:
    """Write `words`, `talk` and `tiny`; texts may be longer than those that the models were trained on."""
    for name in ("words", "talk"):
        shutil.copytree(bundle, root / name / "1")
        (root / name / "config.toml").write_text(f"[generation]\nslot_tokens = {slot_tokens}\n")
    folder = root / "talk" / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["name"] = "talk"
    manifest["task"]["chat_template"] = "chat_template.jinja"
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_checksums(folder)
    BundleMaker().write(root)
