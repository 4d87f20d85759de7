"""A language model as a bundle: the graph of whole texts, and the graph of one step with a cache."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from ddl_model.checkpoint import TOKENIZER_NAME, Checkpoint
from ddl_model.language_model import LanguageModel
from export.golden import sample_ids
from export.graph import LOGITS, gate_outputs, unsupported
from export.kind import MODEL, STEP, HeldOut, Run, Script
from export.language.cache import cache_tensors
from export.language.full_graph import INPUT_IDS, FullPass, export_full_graph
from export.language.held_out import own_sample, read_texts
from export.language.step_graph import COUNTS, LENGTHS, LOGITS_OF, cannot_decode, export_step_graph
from export.manifest import describe_gates
from export.precision_half import HalfLanguageModel
from export.trace import ExportedGraph
from service.bundle import CacheTensor, Gates, GoldenSteps, Graph, LanguageModelling, Positions, StepGraph

STEPS_FILE = "golden/step.safetensors"
CHAT_TEMPLATE_FILE = "chat_template.jinja"

_TOKENS = 12
"""Length of golden texts: longer than any convolution reaches back."""
_PREFILL = (7, 4, 1)
"""How many tokens of each golden text the first step takes, so that rows are of different length."""
_DECODED = 2
"""How many steps of one token follow."""
_WINDOW = 256
"""Tokens of a row on which a model is measured, if nobody knows how long its texts were in training."""


@dataclass(frozen=True)
class LanguageBundle:
    """See `export.kind.Kind`."""

    model: LanguageModel
    checkpoint: Checkpoint
    input: str = INPUT_IDS
    chat_template: bytes | None = None
    """What makes prompts of conversations; see `export.language.chat`."""

    @property
    def context(self) -> int | None:
        """How many tokens the texts of the training had, if the checkpoint says so."""
        length = self.checkpoint.training.get("config", {}).get("data", {}).get("sequence_length")
        return None if length is None else int(length)

    def refusal(self) -> str | None:
        """See `Kind`; a tokenizer of another vocabulary is refused as well."""
        if self.checkpoint.tokenizer:
            try:
                largest = max(Tokenizer.from_str(self.checkpoint.tokenizer).get_vocab().values())
            except Exception as error:  # the library raises nothing narrower
                return f"{TOKENIZER_NAME} is no tokenizer: {error}"
            if largest >= (size := self.model.config.vocab_size):
                return f"{TOKENIZER_NAME} has a token {largest}, the model's vocabulary ends at {size - 1}"
        return unsupported(self.model.config.residual)

    def lacks(self) -> list[str]:
        """See `Kind`."""
        if reason := self.no_step():
            return [f"there will be no graph of a step, the bundle can score texts and not continue them: {reason}"]
        return []

    def graphs(self) -> dict[str, ExportedGraph]:
        """See `Kind`; where no step can be exported, there is none."""
        graphs = {MODEL: export_full_graph(self.model)}
        return graphs if self.no_step() else {**graphs, STEP: export_step_graph(self.model)}

    def no_step(self) -> str | None:
        """Say why the bundle can have no graph of a step, or None."""
        return cannot_decode(self.model.config)

    def scripts(self) -> dict[str, Script]:
        """See `Kind`: a few whole texts; the same begun by one step that takes more of some than of others."""
        ids = sample_ids(self.model.config.vocab_size, self.checkpoint.samples, len(_PREFILL), _TOKENS)
        with torch.no_grad():
            outputs = FullPass(self.model)(ids)
        whole = dict(zip([LOGITS, *gate_outputs(self.model.sites)], outputs, strict=True))
        scripts = {MODEL: Script((Run({INPUT_IDS: ids}, whole),))}
        return scripts if self.no_step() else {**scripts, STEP: self._steps(ids, whole)}

    def task(self, graphs: Mapping[str, Graph], tolerance: float) -> LanguageModelling:
        """See `Kind`."""
        return LanguageModelling(
            tokens=INPUT_IDS,
            logits=LOGITS,
            vocabulary=self.model.config.vocab_size,
            tokenizer=TOKENIZER_NAME if self.checkpoint.tokenizer else None,
            chat_template=None if self.chat_template is None else CHAT_TEMPLATE_FILE,
            context=self.context,
            step=self._describe_step(graphs[STEP], tolerance) if STEP in graphs else None,
        )

    def gates(self) -> Gates | None:
        """See `Kind`."""
        return describe_gates(self.model, Positions(kind="token"))

    def descriptions(self) -> dict[str, str]:
        """See `Kind`."""
        return {
            INPUT_IDS: "token ids, padding behind each row's tokens",
            LENGTHS: "tokens of each row in the cache",
            COUNTS: "how many columns of each row are tokens",
            LOGITS_OF: "tokens whose logits are wanted, as row * tokens + column",
            LOGITS: "of the next token, before the softmax",
        }

    def files(self) -> dict[str, bytes]:
        """See `Kind`: the tokenizer, and the template of conversations."""
        files = {TOKENIZER_NAME: self.checkpoint.tokenizer.encode()} if self.checkpoint.tokenizer else {}
        return files if self.chat_template is None else {**files, CHAT_TEMPLATE_FILE: self.chat_template}

    def card(self) -> dict[str, str]:
        """See `Kind`."""
        config = self.model.config
        known = f", trained on texts of {self.context:,} tokens" if self.context else ""
        decoding = self.no_step() or "one graph for prefill and decode, with a cache that is written in place"
        return {
            "summary": "A language model.",
            "Vocabulary": f"{config.vocab_size:,} tokens{'' if self.checkpoint.tokenizer else ', no tokenizer'}{known}",
            "Decoding": decoding,
            "Limits": "it continues texts like those it was trained on; what it says may be wrong or offensive",
        }

    def logits(self, inputs: Tensor) -> Tensor:
        """See `Kind`."""
        logits: Tensor = self.model(inputs)
        return logits

    def held_out(self, source: Path | None, limit: int) -> HeldOut:
        """See `Kind`."""
        vocabulary = self.model.config.vocab_size
        if source is None:
            return own_sample(self.checkpoint, vocabulary, limit)
        return read_texts(source, self.checkpoint, vocabulary, self.context or _WINDOW, limit)

    def in_half(self) -> "LanguageBundle":
        """See `Kind`."""
        return replace(self, model=HalfLanguageModel(self.model))

    def _describe_step(self, graph: Graph, tolerance: float) -> StepGraph:
        halves = {spec.name for spec in graph.inputs if spec.datatype == "FP16"}
        cache = tuple(
            CacheTensor(
                past=tensor.past,
                present=tensor.present,
                datatype="FP16" if tensor.past in halves else "FP32",
                shape=tensor.shape,
                in_place=tensor.in_place,
            )
            for tensor in cache_tensors(self.model)
        )
        return StepGraph(
            graph=graph,
            tokens=INPUT_IDS,
            lengths=LENGTHS,
            counts=COUNTS,
            wanted=LOGITS_OF,
            logits=LOGITS,
            cache=cache,
            golden=GoldenSteps(file=STEPS_FILE, steps=1 + _DECODED, slots=_TOKENS, tolerance=tolerance),
        )

    def _steps(self, ids: Tensor, whole: Mapping[str, Tensor]) -> Script:
        """Return steps through golden texts; what comes out at each is what torch says of the whole texts."""
        weight = self.model.embedding.weight
        cache = cache_tensors(self.model)
        counts = torch.tensor(_PREFILL)
        rows, columns = len(_PREFILL), max(_PREFILL)
        begun = torch.arange(columns) < counts.unsqueeze(-1)
        prefill = Run(
            _step_inputs(ids[:, :columns] * begun, torch.zeros_like(counts), counts, begun.flatten().nonzero()[:, 0]),
            {LOGITS: whole[LOGITS][:, :columns][begun]},
        )
        runs = [prefill]
        for step in range(_DECODED):
            lengths, row = counts + step, torch.arange(rows)
            outputs = {name: tensor[row, lengths].unsqueeze(1) for name, tensor in whole.items()}
            outputs[LOGITS] = outputs[LOGITS].squeeze(1)
            runs.append(
                Run(_step_inputs(ids[row, lengths].unsqueeze(1), lengths, torch.ones_like(counts), row), outputs)
            )
        return Script(
            tuple(runs),
            carried={tensor.present: tensor.past for tensor in cache},
            start={tensor.past: tensor.empty(rows, _TOKENS, weight.dtype) for tensor in cache},
        )


def _step_inputs(ids: Tensor, lengths: Tensor, counts: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    return {INPUT_IDS: ids, LENGTHS: lengths, COUNTS: counts, LOGITS_OF: wanted}
