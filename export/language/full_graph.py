"""From a language model to the graph of whole texts: scoring, and the gates of every token."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ddl_model.delta_op import NO_OVERRIDE
from ddl_model.language_model import LanguageModel
from ddl_model.observe import Observer
from ddl_model.token_stream import whole_pass
from export.graph import LOGITS, gate_outputs, name_rewrites, override_input, traced, unsupported
from export.trace import ExportedGraph, trace

INPUT_IDS = "input_ids"


class FullPass(nn.Module):
    """A language model that returns logits and every quantity of every rewrite, as `export_full_graph` names them."""

    def __init__(self, model: LanguageModel) -> None:
        """Wrap the model and put it in eval mode."""
        super().__init__()
        self.model = model.eval()

    def forward(self, input_ids: Tensor, overrides: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """Return the outputs of whole rows; `overrides` (batch, token, 6) change the gates, one for each site."""
        observer = observe(self.model, overrides)
        _, read = self.model.hidden_state(input_ids, whole_pass(input_ids), observer)
        # As one matrix: the head then is the embedding as it stands, not a transposed copy of it.
        logits = self.model.logits(read.context.flatten(0, 1)).unflatten(0, input_ids.shape)
        return (logits, *traced(observer, self.model.sites))


def export_full_graph(model: LanguageModel) -> ExportedGraph:
    """Trace the model over any number of whole rows of any length, in standard operators beside our own.

    Input: `input_ids` (batch, tokens) int64, and `overrides/SITE` of each rewrite, which may be left out. Outputs:
    `logits` (batch, tokens, vocabulary) and `gates/SITE/QUANTITY`. Padding behind the tokens of a short row changes
    nothing for them; its own outputs are meaningless.

    Raises:
        RuntimeError: the config asks for what the ops cannot do, torch cannot export the model, or the number of
            rewriting nodes is not the number of rewrites.
    """
    if reason := unsupported(model.config.residual):
        raise RuntimeError(reason)
    overrides = Overrides(model.sites)
    graph = trace(
        FullPass(model),
        {INPUT_IDS: example_ids(), **overrides.examples},
        [{0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}, *overrides.shapes],
        [LOGITS, *gate_outputs(model.sites)],
        overrides.names,
    )
    name_rewrites(graph, model.sites)
    return graph


def observe(model: LanguageModel, overrides: Sequence[Tensor]) -> Observer:
    """Return the observer of a pass with the overrides of all sites, or with none."""
    return Observer(overrides=dict(zip(model.sites, overrides, strict=True)) if overrides else {})


def example_ids() -> Tensor:
    """Return token ids to trace with; an axis of length 1 would be taken for a fixed size."""
    return torch.zeros(2, 3, dtype=torch.int64)


class Overrides:
    """The override inputs of a graph, as `trace` takes them; none without sites."""

    def __init__(self, sites: Sequence[str]) -> None:
        """Describe one input for each site."""
        self.names = [override_input(site) for site in sites]
        # One token for all, and no axis left open: else the graph would take the sizes of a batch from the overrides,
        # which a caller may leave out.
        self.examples = {" ".join(self.names): [torch.tensor([[NO_OVERRIDE]]) for _ in sites]} if sites else {}
        self.shapes: list[Any] = [[{} for _ in sites]] if sites else []
