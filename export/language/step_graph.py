"""From a language model to the graph of one step: prefill, a chunk of it, or one token each, with a cache.

One graph serves prefill and decode: both are the same nodes, and the weights are there once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddl_model.config import LanguageModelConfig
from ddl_model.language_model import LanguageModel
from ddl_model.token_stream import TokenStream
from export.graph import LOGITS, gate_outputs, name_rewrites, traced, unsupported
from export.language.cache import CacheTensor, cache_tensors, from_cache, to_cache
from export.language.full_graph import INPUT_IDS, Overrides, example_ids, observe
from export.ops import attention
from export.trace import ExportedGraph, trace

LENGTHS = "lengths"
COUNTS = "counts"
LOGITS_OF = "logits_of"


class DecodeStep(nn.Module):
    """A language model that continues a cache, with the inputs and outputs of `export_step_graph` in their order."""

    def __init__(self, model: LanguageModel) -> None:
        """Wrap the model and put it in eval mode."""
        super().__init__()
        self.model = model.eval()
        self.layout = cache_tensors(model)

    def forward(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        counts: Tensor,
        logits_of: Tensor,
        cache: Sequence[Tensor],
        overrides: Sequence[Tensor] = (),
    ) -> tuple[Tensor, ...]:
        """Return logits, the new cache and the quantities of every rewrite."""
        stream = TokenStream(input_ids, counts, to_cache(lengths, self.layout, cache), remember=True)
        observer = observe(self.model, overrides)
        _, read = self.model.hidden_state(input_ids, stream, observer)
        logits = self.model.logits(read.context.flatten(0, 1).index_select(0, logits_of))
        present = from_cache(stream.cache(input_ids.device), self.layout)
        return (logits, *present, *traced(observer, self.model.sites))


def export_step_graph(model: LanguageModel) -> ExportedGraph:
    """Trace one step for any number of rows, tokens and slots.

    Inputs:
        input_ids: (batch, tokens) int64; the tokens of a row stand first, padding behind them.
        lengths: (batch,) int64, how many tokens of each row are in the cache; 0 begins a row.
        counts: (batch,) int64, how many of a row's columns are tokens; 0 leaves the row as it was.
        logits_of: (n,) int64, the tokens whose logits are wanted, each as row * tokens + column; may be empty.
        past/...: the cache, see `export.language.cache`.
        overrides/SITE: changes of the gates; may be left out.

    Outputs: `logits` (n, vocabulary), `present/...`, `gates/SITE/QUANTITY` (batch, tokens, ...).

    Keys and values need `max(lengths) + tokens` slots. Where past and present are one buffer, nothing is copied. With
    more than one column, either there is one row or all lengths are 0: ONNX Runtime takes no other batches.

    Raises:
        RuntimeError: the config asks for what the ops cannot do, torch cannot export the model, or the number of
            rewriting nodes is not the number of rewrites.
    """
    if reason := cannot_decode(model.config):
        raise RuntimeError(reason)
    step = DecodeStep(model)
    batch, tokens, slots = (torch.export.Dim(name) for name in ("batch", "tokens", "slots"))
    overrides = Overrides(model.sites)
    ids = example_ids()
    rows, columns = ids.shape
    examples: dict[str, Any] = {
        INPUT_IDS: ids,
        LENGTHS: torch.zeros(rows, dtype=torch.int64),
        COUNTS: torch.full((rows,), columns),
        LOGITS_OF: torch.arange(2 * columns),
        " ".join(place.past for place in step.layout): _example_cache(model, step.layout, rows, columns),
        **overrides.examples,
    }
    shapes: list[Any] = [
        {0: batch, 1: tokens},
        {0: batch},
        {0: batch},
        {0: torch.export.Dim("wanted")},
        [{0: batch, 2: slots} if place.in_place else {0: batch} for place in step.layout],
        *overrides.shapes,
    ]
    outputs = [LOGITS, *(place.present for place in step.layout), *gate_outputs(model.sites)]
    graph = trace(step, examples, shapes, outputs, overrides.names)
    graph.model.opset_imports[attention.DOMAIN] = attention.VERSION
    name_rewrites(graph, model.sites)
    return graph


def cannot_decode(config: LanguageModelConfig) -> str | None:
    """Say which field of a config the graph of a step cannot do, or None."""
    width, step = config.attention.head_width, attention.HEAD_WIDTH_STEP
    if width % step:
        return f"attention.head_width must be a multiple of {step} to decode with a cache, got {width}"
    return unsupported(config.residual)


def _example_cache(model: LanguageModel, layout: Sequence[CacheTensor], rows: int, columns: int) -> list[Tensor]:
    """Return a cache to trace with; its number of slots must not look like another size of the graph."""
    return [place.empty(rows, columns + 4, model.embedding.weight.dtype) for place in layout]
