"""The bundle format: what `export` writes and the service reads. The reader owns the format.

A bundle is one folder, `REPOSITORY/NAME/VERSION/`:

    manifest.json            this module's `Manifest`
    graphs/model.onnx        the graph, with the plain body of every custom op attached
    golden/samples.safetensors   inputs `input/NAME` and what torch answered, `output/NAME`
    PARITY.md                the export's report: torch, plain body, kernel on the same samples
    MODEL_CARD.md            what the model is, its data, its figures, its limits (optional)
    SHA256SUMS               one line for each other file, as `sha256sum` writes and checks it
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.errors import BundleCorrupt, BundleInvalid

SCHEMA: Final = "ddl.bundle/1"
MANIFEST_NAME = "manifest.json"
CHECKSUMS_NAME = "SHA256SUMS"
NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
"""Names of models: fit for a folder, a URL and a metric's label."""

Datatype = Literal["FP32", "INT64"]
"""Names of tensor types as the Open Inference Protocol spells them."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(_Model):
    """One input or output of the graph; -1 in `shape` is an axis of any length, the first axis is the batch."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...] = Field(min_length=1)
    description: str = ""


class CustomOp(_Model):
    """A custom operator that the graph uses; its plain body is attached to the graph."""

    domain: str
    name: str
    version: int
    count: int = Field(ge=1)
    value_channels: tuple[int, ...] = ()
    datatype: Datatype = "FP32"


class Graph(_Model):
    """The ONNX file, its tensors and what it asks of the runtime."""

    file: str
    opset: int
    inputs: tuple[TensorSpec, ...] = Field(min_length=1)
    outputs: tuple[TensorSpec, ...] = Field(min_length=1)
    custom_ops: tuple[CustomOp, ...] = ()


class Site(_Model):
    """One rewrite of the network: `site = 2 * layer + (0 attn | 1 mlp)`."""

    index: int = Field(ge=0)
    name: str
    layer: int = Field(ge=0)
    sublayer: Literal["attn", "mlp"]
    module: str


class ValueMap(_Model):
    """How the target is made from its input: linear, or `scale * sigmoid(linear)`."""

    kind: Literal["linear", "sigmoid"]
    scale: float = 0.0
    input: Literal["context", "x_in"]


class Positions(_Model):
    """What the position axis of a gate quantity runs over: tokens, or patches in rows of `grid[1]`."""

    kind: Literal["token", "patch"]
    grid: tuple[int, int] | None = None


class Gates(_Model):
    """What a rewrite tells about itself, and the graph outputs that carry it.

    `outputs[quantity][site]` names a graph output of shape (batch, position) or (batch, position, channel).
    Quantities bear the names of the gates API: beta, beta_logit, v, proj, k_raw_norm.
    """

    update_rule: Literal["delta", "additive"]
    value_channels: int = Field(ge=1)
    direction_eps: float = Field(ge=0)
    value_map: ValueMap | None
    positions: Positions
    sites: tuple[Site, ...]
    outputs: dict[str, tuple[str, ...]]

    @model_validator(mode="after")
    def _one_output_per_site(self) -> "Gates":
        for quantity, names in self.outputs.items():
            if len(names) != len(self.sites):
                raise ValueError(f"{quantity} has {len(names)} outputs for {len(self.sites)} sites")
        if [site.index for site in self.sites] != list(range(len(self.sites))):
            raise ValueError("sites must be numbered 0, 1, 2, ... in order")
        return self


class ImageInput(_Model):
    """How image bytes become the pixel tensor (1, channels, height, width): `(pixel / 255 - mean) / std`.

    `background` says what the training images had around the object; an image with the other is inverted.
    """

    tensor: str
    height: int = Field(ge=1, le=4096)
    width: int = Field(ge=1, le=4096)
    channels: Literal[1, 3]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    background: Literal["dark", "bright", "any"] = "any"

    @model_validator(mode="after")
    def _one_number_per_channel(self) -> "ImageInput":
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std need {self.channels} numbers, one per channel")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self


class Classification(_Model):
    """What an image classifier needs beside its graph; `probabilities` names the output of class probabilities."""

    kind: Literal["image-classification"] = "image-classification"
    image: ImageInput
    labels: tuple[str, ...] = Field(min_length=2)
    probabilities: str


class Golden(_Model):
    """Recorded samples: the graph must answer the inputs in `file` with its outputs.

    `tolerance` is absolute for values up to 1 and relative above.
    """

    file: str
    samples: int = Field(ge=1)
    tolerance: float = Field(gt=0)


class Manifest(_Model):
    """Everything that a server must know of a bundle without opening its graph."""

    schema_: Literal["ddl.bundle/1"] = Field(alias="schema")
    name: str = Field(pattern=NAME_PATTERN)
    description: str = ""
    created: str
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    task: Classification
    graph: Graph
    gates: Gates | None
    golden: Golden
    metrics: dict[str, float] = {}
    made_with: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_exist(self) -> "Manifest":
        inputs = {spec.name for spec in self.graph.inputs}
        outputs = {spec.name for spec in self.graph.outputs}
        if self.task.image.tensor not in inputs:
            raise ValueError(f"task.image.tensor {self.task.image.tensor!r} is no input of the graph")
        if self.task.probabilities not in outputs:
            raise ValueError(f"task.probabilities {self.task.probabilities!r} is no output of the graph")
        named = {name for names in (self.gates.outputs.values() if self.gates else ()) for name in names}
        if missing := sorted(named - outputs):
            raise ValueError(f"gates.outputs names {missing[0]!r}, which is no output of the graph")
        return self

    @model_validator(mode="after")
    def _shapes_fit(self) -> "Manifest":
        image = self.task.image
        pixels = TensorSpec(name=image.tensor, datatype="FP32", shape=(-1, image.channels, image.height, image.width))
        if [(spec.datatype, spec.shape) for spec in self.graph.inputs] != [(pixels.datatype, pixels.shape)]:
            raise ValueError(f"the graph of a classifier has one input, {image.tensor!r} FP32 {list(pixels.shape)}")
        outputs = {spec.name: spec for spec in self.graph.outputs}
        probabilities = outputs[self.task.probabilities]
        if (probabilities.datatype, probabilities.shape) != ("FP32", (-1, len(self.task.labels))):
            raise ValueError(f"{probabilities.name!r} must be FP32 of shape [-1, {len(self.task.labels)}], like labels")
        for quantity, names in (self.gates.outputs if self.gates else {}).items():
            for spec in (outputs[name] for name in names):
                if spec.datatype != "FP32" or not self._fits_gates(spec.shape):
                    raise ValueError(
                        f"{spec.name!r} carries {quantity}: FP32, (batch, position) or (batch, position, channel)"
                    )
        return self

    def _fits_gates(self, shape: tuple[int, ...]) -> bool:
        assert self.gates is not None
        grid = self.gates.positions.grid
        positions_fit = grid is None or shape[1:2] in ((-1,), (grid[0] * grid[1],))
        return len(shape) in (2, 3) and positions_fit and shape[2:] in ((), (self.gates.value_channels,))


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose checksums held when it was read."""

    folder: Path
    manifest: Manifest

    @property
    def graph_path(self) -> Path:
        """Path of the ONNX file."""
        return self.folder / self.manifest.graph.file

    @property
    def golden_path(self) -> Path:
        """Path of the golden samples."""
        return self.folder / self.manifest.golden.file


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and verify that its files are those that were exported.

    Raises:
        BundleCorrupt: a file is missing, was added to the list or has another checksum.
        BundleInvalid: `manifest.json` does not follow the format.
    """
    verify_checksums(folder)
    path = folder / MANIFEST_NAME
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleInvalid(f"{path}: {where}: {first['msg']}") from error
    sums = read_checksums(folder)
    for file in (manifest.graph.file, manifest.golden.file):
        if file not in sums:
            raise BundleInvalid(f"{path}: {file} is not listed in {CHECKSUMS_NAME}")
    return Bundle(folder, manifest)


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` for every file of the folder, in the order of their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS_NAME)
    lines = [f"{file_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / CHECKSUMS_NAME).write_text("".join(lines), encoding="utf-8")


def read_checksums(folder: Path) -> dict[str, str]:
    """Return file name to SHA-256 as `SHA256SUMS` lists them.

    Raises:
        BundleCorrupt: the list is missing, a line is not of the form `HASH  NAME`, or a name leaves the folder.
    """
    path = folder / CHECKSUMS_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BundleCorrupt(f"{path} cannot be read: {error}") from error
    sums = {}
    for line in lines:
        digest, separator, name = line.partition("  ")
        inside = name and not name.startswith("/") and ".." not in Path(name).parts
        if not separator or len(digest) != 64 or not inside:
            raise BundleCorrupt(f"{path}: not a line of sha256sum: {line[:100]!r}")
        sums[name] = digest
    return sums


def verify_checksums(folder: Path) -> None:
    """Compare every listed file with its checksum.

    Raises:
        BundleCorrupt: a file is missing or differs.
    """
    sums = read_checksums(folder)
    if MANIFEST_NAME not in sums:
        raise BundleCorrupt(f"{folder / CHECKSUMS_NAME} does not list {MANIFEST_NAME}")
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            raise BundleCorrupt(f"{path} is missing")
        actual = file_sha256(path)
        if actual != expected:
            raise BundleCorrupt(f"{path} has SHA-256 {actual}, expected {expected}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, indented for people."""
    content = manifest.model_dump(mode="json", by_alias=True)
    (folder / MANIFEST_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
