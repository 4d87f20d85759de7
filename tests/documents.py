"""The parts of the documents that follow from the code: `python -m tests.documents` writes them anew.

A generated part stands between `<!-- NAME -->` and `<!-- end of NAME -->`; the tests hold it to the code.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.metrics import MetricWrapperBase

from service import connection
from service.api import health, problems
from service.api.problems import Kind
from service.api.routes import ROUTES
from service.grpc.answers import METHODS
from service.grpc.infer import infer, stream
from service.metrics import Metrics
from service.settings.fields import GROUPS
from service.settings.load import show_default

ROOT = Path(__file__).parent.parent

# How the guard, the endpoints or the framework answer; there is no error class for these.
OTHER_KINDS = (problems.NOT_FOUND, problems.METHOD_NOT_ALLOWED, health.NOT_READY)


def settings() -> str:
    """Return a table of settings for each group."""
    parts = []
    for group in GROUPS:
        title = (group.__doc__ or "").partition("\n")[0].rstrip(".")
        rows = [
            f"| `{name}` | {show_default(field.default)} | {_cell(field.description)} |"
            for name, field in group.model_fields.items()
        ]
        parts.append(f"**{title}**\n\n" + "\n".join(["| setting | default | meaning |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def metrics() -> str:
    """Return the table of the metrics."""
    found = sorted(_metrics(), key=lambda row: row[0])
    rows = [f"| `{name}` | {kind} | {', '.join(labels) or '-'} | {_cell(text)} |" for name, kind, labels, text in found]
    return "\n".join(["| name | kind | labels | meaning |", "| --- | --- | --- | --- |", *rows])


def errors(old: str) -> str:
    """Return the table of the errors; what to do about each is kept from the old table."""
    advice = {match[1]: match[2] for match in re.finditer(r"^\| `([a-z0-9-]+)` \|.*\| (.*) \|$", old, re.MULTILINE)}
    rows = []
    for kind in sorted(kinds(), key=lambda kind: (kind.status, kind.slug)):
        status = str(kind.status)
        if kind.protocol_status:
            status += f" ({kind.protocol_status} under `/v2` and for texts)"
        if kind.openai_status:
            status += f" ({kind.openai_status} for texts)"
        rows.append(f"| `{kind.slug}` | {status} | {kind.title} | {advice.get(kind.slug, '')} |")
    head = ["| type `urn:ddl:problem:` | status | title | when it comes, and what to do |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *rows])


def paths() -> str:
    """Return the table of the paths."""
    rows = [f"| {route.method} | `{route.path}` | {route.scope} | {_summary(route.endpoint)} |" for route in ROUTES]
    return "\n".join(["| method | path | scope | what it does |", "| --- | --- | --- | --- |", *rows])


def methods() -> str:
    """Return the table of the gRPC methods."""
    infer_methods = {"ModelInfer": ("infer", infer), "ModelStreamInfer": ("infer", stream)}
    found = {**{name: (method.scope, method.answer) for name, method in METHODS.items()}, **infer_methods}
    rows = [f"| `{name}` | {scope} | {_summary(call)} |" for name, (scope, call) in found.items()]
    return "\n".join(["| method | scope | what it does |", "| --- | --- | --- |", *rows])


def kinds() -> set[Kind]:
    """Return every kind of error that an answer can bear."""
    return {*problems.KINDS.values(), *connection.KINDS, *OTHER_KINDS}


PARTS: dict[str, tuple[str, Callable[[str], str]]] = {
    "settings": ("docs/operations.md", lambda old: settings()),
    "metrics": ("docs/operations.md", lambda old: metrics()),
    "errors": ("docs/errors.md", errors),
    "paths": ("docs/api.md", lambda old: paths()),
    "methods": ("docs/api.md", lambda old: methods()),
}


def part(text: str, name: str) -> str:
    """Return what stands in a generated part."""
    match = re.search(rf"<!-- {name} -->\n\n(.*)\n\n<!-- end of {name} -->", text, re.DOTALL)
    if match is None:
        raise ValueError(f"no part <!-- {name} --> ... <!-- end of {name} -->")
    return match[1]


def main() -> None:
    """Write every generated part."""
    for name, (document, generate) in PARTS.items():
        path = ROOT / document
        text = path.read_text("utf-8")
        old = part(text, name)
        mark = f"<!-- {name} -->\n\n"
        path.write_text(text.replace(mark + old, mark + generate(old), 1), "utf-8")


def _metrics() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    made = Metrics()
    made.batches.watch_models(lambda: [])
    made.generation.watch(lambda: [])
    made.gates.watch_live(lambda: [])
    for collector in made._registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            suffix = "_total" if collector._type == "counter" else ""
            yield collector._name + suffix, collector._type, tuple(collector._labelnames), collector._documentation
            continue
        for family in collector.collect():
            if family.name.startswith("ddl_"):
                suffix = "_total" if family.type == "counter" else ""
                yield family.name + suffix, family.type, tuple(family._labelnames), family.documentation


def _summary(call: Callable[..., object]) -> str:
    return _cell((inspect.getdoc(call) or "").partition("\n")[0].rstrip("."))


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


if __name__ == "__main__":
    main()
