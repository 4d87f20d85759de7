"""What the service says when it is ready: models, the path of their rewrites, and a command to try."""

from math import prod
from pathlib import Path

from service import __version__
from service.api.state import State
from service.bundle import Classification, LanguageModelling
from service.repository import Entry, Loaded

_EXAMPLE_IMAGE = Path("docs/images/ankle-boot.png")


def banner(state: State, url: str) -> str:
    """Say what is served where, on which path the rewrites are computed, and how to try it."""
    entries = state.repository.entries()
    lines = [f"ddl-serve {__version__} at {url}  (a look inside: {url}/, documentation: {url}/docs)"]
    lines += [_model_line(entry) for entry in entries]
    ready = [entry.loaded for entry in entries if entry.loaded is not None]
    if ready:
        # One model of each task is enough.
        shown = {type(model.manifest.task): model for model in reversed(ready)}
        lines += ["Try it:", *(f"  {_example(model, url)}" for model in reversed(shown.values()))]
    return "\n".join(lines)


def _model_line(entry: Entry) -> str:
    name = f"{entry.name} version {entry.version}"
    if entry.loaded is None:
        return f"  REFUSED  {name}: {entry.reason}"
    kernel = entry.loaded.session.kernel
    if kernel.path == "kernel":
        return f"  ready    {name}, kernel ({kernel.reason})"
    loud = "PLAIN BODY, slower" if entry.loaded.manifest.graph.custom_ops else "plain"
    return f"  ready    {name}, {loud} ({kernel.reason})"


def _example(model: Loaded, url: str) -> str:
    """Return a command to paste: continue a text, classify the picture of the checkout, or else infer on zeros."""
    task = model.manifest.task
    if isinstance(task, LanguageModelling) and task.tokenizer and task.step:
        wanted = f'{{"model": "{model.name}", "prompt": "It was", "max_tokens": 40, "stream": true}}'
        return f"curl -N {url}/v1/completions -H 'Content-Type: application/json' -d '{wanted}'"
    picture = Path(__file__).parent.parent / _EXAMPLE_IMAGE
    if isinstance(task, Classification) and picture.is_file():
        shown = picture.relative_to(Path.cwd()) if picture.is_relative_to(Path.cwd()) else picture
        return f"curl -F image=@{shown} {url}/v1/models/{model.name}/classify"
    spec = model.manifest.graph.inputs[0]
    shape = [1, *(max(axis, 1) for axis in spec.shape[1:])]
    zeros = f"'$(yes 0 | head -n {prod(shape)} | paste -sd, -)'"
    tensor = f'{{"name":"{spec.name}","shape":{shape},"datatype":"{spec.datatype}","data":[{zeros}]}}'
    return f"curl {url}/v2/models/{model.name}/infer -H 'Content-Type: application/json' -d '{{\"inputs\":[{tensor}]}}'"
