"""The manifest: everything that a server must know of a bundle without opening its graphs."""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from service.errors import TaskMismatch
from service.manifest.gates import Gates
from service.manifest.image import Classification
from service.manifest.language import LanguageModelling
from service.manifest.precision import Precision
from service.manifest.tensors import Graph, Part

SCHEMA: Final = "ddl.bundle/1"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""Names of models: fit for a folder, a URL and a metric's label."""

Task = Annotated[Classification | LanguageModelling, Field(discriminator="kind")]
"""What a model does, told apart by `kind`."""


class Golden(Part):
    """Recorded samples: the graph must answer the inputs in `file` with its outputs.

    `tolerance` is absolute for values up to 1 and relative above.
    """

    file: str
    samples: int = Field(ge=1)
    tolerance: float = Field(gt=0)


class Manifest(Part):
    """Everything that a server must know of a bundle without opening its graphs. Without `precision` it is float32."""

    schema_: Literal["ddl.bundle/1"] = Field(alias="schema")
    name: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    created: str
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    task: Task
    graph: Graph
    gates: Gates | None
    golden: Golden
    precision: Precision | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    made_with: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _graphs_fit(self) -> "Manifest":
        self.task.check(self.graph)
        if self.gates is not None:
            for graph in self.graphs.values():
                self.gates.check(graph)
            self.gates.check_depth(self.graph)
        return self

    @property
    def graphs(self) -> dict[str, Graph]:
        """Every graph of the bundle: `model`, and a language model's `step`."""
        step = self.task.step if isinstance(self.task, LanguageModelling) else None
        return {"model": self.graph} if step is None else {"model": self.graph, "step": step.graph}

    @property
    def files(self) -> list[str]:
        """Every file that the manifest names."""
        files = [self.golden.file]
        for graph in self.graphs.values():
            files += [graph.file, *graph.weights]
        if self.gates is not None and self.gates.depth is not None:
            files.append(self.gates.depth.head.file)
        if isinstance(self.task, LanguageModelling):
            files += [self.task.tokenizer] if self.task.tokenizer else []
            files += [self.task.chat_template] if self.task.chat_template else []
            files += [self.task.step.golden.file] if self.task.step else []
        return list(dict.fromkeys(files))

    @property
    def classification(self) -> Classification:
        """The task of an image classifier.

        Raises:
            TaskMismatch: the model does something else.
        """
        if not isinstance(self.task, Classification):
            raise TaskMismatch(
                f"{self.name!r} is no image classifier: its task is {self.task.kind}", task=self.task.kind
            )
        return self.task
