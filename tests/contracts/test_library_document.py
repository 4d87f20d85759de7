"""The library's document names everything that is there, and nothing that is not."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import ddl_model
from ddl_model import config as configs
from ddl_model.path import DepthPath, GramPath
from ddl_model.quantities import CATALOGUE, COMPANIONS, PRESETS

CONFIGS = [value for name, value in vars(configs).items() if name.endswith("Config") and value is not configs.Config]
TOOLBOX = ("delta", "gram_path", "path", "observe", "interventions", "checkpoint", "quantities")
RULES = ("delta", "write_only", "additive")


def catalogue_table() -> str:
    """Return the table of quantities as the document has it."""
    lines = ["| name | axes | unit | definition | d / w / a |", "| --- | --- | --- | --- | --- |"]
    for name, row in CATALOGUE.items():
        group = " (g)" if row.per_gate else ""
        rules = " / ".join("yes" if rule in row.rules else "-" for rule in RULES)
        definition = row.definition.replace("|", "\\|")
        lines.append(f"| `{name}` | {', '.join(row.axes)}{group} | {row.unit} | {definition} | {rules} |")
    return "\n".join(lines)


def preset_table() -> str:
    """Return the table of presets as the document has it."""
    rows = [f"| `{name}` | {', '.join(names)} |" for name, names in PRESETS.items() if name != "all"]
    return "\n".join(["| preset | quantities |", "| --- | --- |", *rows, "| `all` | everything that exists |"])


def companion_text() -> str:
    """Return the sentence about companions as the document has it."""
    return ", ".join(f"`{name}` brings `{', '.join(others)}`" for name, others in COMPANIONS.items())


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "docs/ddl_model.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def words(text: str) -> set[str]:
    """Return every word that stands in backticks."""
    return {word for code in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"[\w+]+", code)}


def test_every_module_is_named(words: set[str]) -> None:
    modules = {module.name for module in pkgutil.iter_modules(ddl_model.__path__) if not module.name.startswith("_")}
    assert len(modules) > 25
    assert modules - words == set()


def own(module: ModuleType) -> dict[str, object]:
    """Return what a module exports, or else the public classes and functions that it defines."""
    exported = getattr(module, "__all__", None)
    if exported is not None:
        return {name: getattr(module, name) for name in exported}
    found = inspect.getmembers(module, lambda value: inspect.isclass(value) or inspect.isfunction(value))
    return {name: value for name, value in found if value.__module__ == module.__name__ and not name.startswith("_")}


def test_every_public_name_is_named(words: set[str]) -> None:
    assert set(ddl_model.__all__) - words == set()
    for toolbox in TOOLBOX:
        assert set(own(importlib.import_module(f"ddl_model.{toolbox}"))) - words == set(), toolbox


@pytest.mark.parametrize("path", [GramPath, DepthPath], ids=lambda path: path.__name__)
def test_every_way_to_ask_a_path_is_named(path: type, words: set[str]) -> None:
    fields = {field.name for field in dataclasses.fields(path)}
    assert {name for name in vars(path) if not name.startswith("_")} - fields - words == set()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_every_word_of_a_configuration_is_there(config: type, text: str) -> None:
    assert len(CONFIGS) == 7
    start = text.index(f"`{config.__name__}`", text.index("## Every word of a configuration"))
    table = text[start : text.index("\n#", start)]
    for field in dataclasses.fields(config):
        assert f"`{field.name}`" in table, field.name
        hint = get_type_hints(config)[field.name]
        if get_origin(hint) is Literal and config not in (configs.DeltaResNetConfig, configs.DeltaMLPConfig):
            assert all(str(word) in table for word in get_args(hint)), field.name


@pytest.mark.parametrize("config", [configs.ResidualConfig, configs.StateConfig], ids=lambda config: config.__name__)
def test_defaults_are_the_real_ones(config: type, text: str) -> None:
    for field in dataclasses.fields(config):
        (shown,) = re.findall(rf"^\| `{field.name}` \| `?([^|`]+)`? \|", text, re.MULTILINE)
        assert type(field.default)(shown != "false" if isinstance(field.default, bool) else shown) == field.default


def test_equations_are_where_the_table_says(text: str) -> None:
    table = text[text.index("## Where each equation is") : text.index("## Language models")]
    rows = [row.split(" | ")[-1] for row in table.splitlines() if row.startswith("| ") and ".py`" in row]
    assert len(rows) > 20
    for row in rows:
        for file, names in re.findall(r"`(\w+)\.py`: ((?:`\w+`(?:, )?)+)", row):
            module = importlib.import_module(f"ddl_model.{file}")
            for name in re.findall(r"\w+", names):
                value = getattr(module, name)
                assert value.__module__ == module.__name__, (file, name)


def test_numbers_of_equations_are_those_of_the_docstrings(text: str) -> None:
    delta = importlib.import_module("ddl_model.delta")
    for number, name in re.findall(r"^\| (2\.\d|Prop\. 2\.1) \|.*`delta\.py`: `(\w+)`", text, re.MULTILINE):
        source = inspect.getdoc(getattr(delta, name)) or ""
        assert number.removeprefix("Prop. ") in source, (number, name)


def test_the_catalogue_is_printed(text: str) -> None:
    for part in (catalogue_table(), preset_table(), companion_text()):
        assert part in text


def test_links_lead_somewhere(text: str, root: Path) -> None:
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    headings = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (root / "docs" / target).exists(), target
