"""What a manifest says of a language model."""

from typing import Literal

from pydantic import Field, model_validator

from service.manifest.tensors import Graph, Part, require


class CacheTensor(Part):
    """What a step remembers: it takes `past` and gives `present`, which is the past of the next step.

    `shape` is that of one row, without the batch axis; -1 is the axis of slots, one for each token that a row may
    have. With `in_place`, both may be bound to one buffer, so that a step copies nothing; else they must be two.
    """

    past: str
    present: str
    datatype: Literal["FP32", "FP16"]
    shape: tuple[int, ...] = Field(min_length=1)
    in_place: bool

    @model_validator(mode="after")
    def _slots_fit(self) -> "CacheTensor":
        if any(size < 1 and size != -1 for size in self.shape):
            raise ValueError(f"{self.past!r}: sizes are above 0, or -1 for slots; got {list(self.shape)}")
        if self.shape.count(-1) > 1:
            raise ValueError(f"{self.past!r}: one axis can be slots (-1); got {list(self.shape)}")
        if self.in_place and -1 not in self.shape:
            raise ValueError(f"{self.past!r} has no slots: a step changes all of it, so it cannot be written in place")
        return self


class GoldenSteps(Part):
    """Recorded steps of a language model, in a row from an empty cache with `slots` slots.

    `file` has `STEP/input/NAME` and `STEP/output/NAME` for each of `steps`, counted from 0; the cache, zeros at first,
    is passed on from step to step. `tolerance` is absolute for values up to 1 and relative above.
    """

    file: str
    steps: int = Field(ge=1)
    slots: int = Field(ge=1)
    tolerance: float = Field(gt=0)


class StepGraph(Part):
    """The graph that continues texts: prefill, a part of it, or one token each.

    Beside `tokens` (batch, tokens) it takes, all INT64: `lengths` (batch), how many tokens of each row are in the
    cache; `counts` (batch), how many of a row's columns are tokens, the others are padding behind them; and `wanted`
    (n), the tokens whose logits are wanted, each as row * tokens + column. `logits` are (n, vocabulary). Keys and
    values need max(lengths) + tokens slots. The outputs for gates have the names that they have in the whole graph.
    """

    graph: Graph
    tokens: str
    lengths: str
    counts: str
    wanted: str
    logits: str
    cache: tuple[CacheTensor, ...] = Field(min_length=1)
    golden: GoldenSteps

    def check(self, vocabulary: int) -> None:
        """Hold the graph to what is said of its tensors.

        Raises:
            ValueError: a tensor is missing or one too many, or has another datatype or shape.
        """
        promised: dict[tuple[Literal["input", "output"], str], tuple[str, tuple[int, ...], str]] = {
            ("input", self.tokens): ("INT64", (-1, -1), "task.step.tokens"),
            ("input", self.lengths): ("INT64", (-1,), "task.step.lengths"),
            ("input", self.counts): ("INT64", (-1,), "task.step.counts"),
            ("input", self.wanted): ("INT64", (-1,), "task.step.wanted"),
            ("output", self.logits): ("FP32", (-1, vocabulary), "task.step.logits"),
        }
        for tensor in self.cache:
            promised["input", tensor.past] = (tensor.datatype, (-1, *tensor.shape), "task.step.cache: past")
            promised["output", tensor.present] = (tensor.datatype, (-1, *tensor.shape), "task.step.cache: present")
        for (kind, name), (datatype, shape, field) in promised.items():
            require(self.graph.find(kind, name, field), datatype, shape)
        if unknown := {spec.name for spec in self.graph.inputs} - {name for kind, name in promised if kind == "input"}:
            raise ValueError(f"input {min(unknown)!r} of the step graph is not described in task.step")


class LanguageModelling(Part):
    """What a language model needs beside the graph of whole texts, from `tokens` to `logits` of every token.

    `tokenizer` names the tokenizer's file, `context` is the longest text that the model was trained on, in tokens;
    both are left out where nothing is known. `chat_template` is the file of a Jinja2 template that turns messages into
    a prompt, for models that were trained on conversations. Without `step` the model can score texts and not continue
    them.
    """

    kind: Literal["language-model"] = "language-model"
    tokens: str
    logits: str
    vocabulary: int = Field(ge=2)
    tokenizer: str | None = None
    chat_template: str | None = None
    context: int | None = Field(None, ge=1)
    step: StepGraph | None

    def check(self, graph: Graph) -> None:
        """Hold both graphs to what the task says of their tensors.

        Raises:
            ValueError: a tensor is missing or one too many, or has another datatype or shape.
        """
        tokens = graph.find("input", self.tokens, "task.tokens")
        if len(graph.inputs) != 1:
            raise ValueError(f"the graph of whole texts has one input, {self.tokens!r} INT64 [-1, -1]")
        require(tokens, "INT64", (-1, -1))
        if self.chat_template is not None and self.tokenizer is None:
            raise ValueError("task.chat_template makes texts of messages, which need a task.tokenizer")
        require(graph.find("output", self.logits, "task.logits"), "FP32", (-1, -1, self.vocabulary))
        if self.step is not None:
            self.step.check(self.vocabulary)
