"""What the service says when it is ready: models, the path of their rewrites, and a command to try."""

from math import prod
from pathlib import Path

from service import __version__
from service.api.state import State
from service.repository import Entry, Loaded

_EXAMPLE_IMAGE = Path("docs/images/ankle-boot.png")


def banner(state: State, url: str) -> str:
    """Say what is served where, on which path the rewrites are computed, and how to try it."""
    entries = state.repository.entries()
    lines = [f"ddl-serve {__version__} at {url}  (documentation: {url}/docs)"]
    lines += [_model_line(entry) for entry in entries]
    ready = [entry.loaded for entry in entries if entry.loaded is not None]
    if ready:
        lines += ["Try it:", "  " + _example(ready[0], url)]
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
    """Return a command to paste: classify the picture of the checkout if there is one, else infer on zeros."""
    picture = Path(__file__).parent.parent / _EXAMPLE_IMAGE
    if picture.is_file():
        shown = picture.relative_to(Path.cwd()) if picture.is_relative_to(Path.cwd()) else picture
        return f"curl -F image=@{shown} {url}/v1/models/{model.name}/classify"
    spec = model.manifest.graph.inputs[0]
    shape = [1, *spec.shape[1:]]
    zeros = f"'$(yes 0 | head -n {prod(shape)} | paste -sd, -)'"
    tensor = f'{{"name":"{spec.name}","shape":{shape},"datatype":"{spec.datatype}","data":[{zeros}]}}'
    return f"curl {url}/v2/models/{model.name}/infer -H 'Content-Type: application/json' -d '{{\"inputs\":[{tensor}]}}'"
