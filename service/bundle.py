"""The bundle format: what `export` writes and the service reads. The reader owns the format.

A bundle is one folder, `REPOSITORY/NAME/VERSION/`:

    manifest.json            `Manifest`, its parts in `service/manifest`
    graphs/model.onnx        the graph, with the plain body of every custom op attached
    golden/samples.safetensors   inputs `input/NAME` and what torch answered, `output/NAME`
    graphs/step.onnx         language models: the graph of one step with a cache
    golden/step.safetensors  steps in a row, from an empty cache: `STEP/input/NAME`, `STEP/output/NAME`
    graphs/weights.bin       the weights that both graphs share, as ONNX external data
    tokenizer.json           language models, where there is one
    PARITY.md                the export's report: torch, plain body, kernel on the same samples
    MODEL_CARD.md            what the model is, its data, its figures, its limits (optional)
    SHA256SUMS               one line for each other file, as `sha256sum` writes and checks it
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from service.errors import BundleCorrupt, BundleInvalid
from service.manifest.gates import Gates, Positions, Site, ValueMap
from service.manifest.image import Classification, ImageInput
from service.manifest.language import CacheTensor, GoldenSteps, LanguageModelling, StepGraph
from service.manifest.manifest import NAME_PATTERN, SCHEMA, Golden, Manifest, Task
from service.manifest.precision import Precision, PrecisionCost
from service.manifest.tensors import CustomOp, Datatype, Graph, TensorSpec

__all__ = [
    "NAME_PATTERN",
    "SCHEMA",
    "Bundle",
    "CacheTensor",
    "Classification",
    "CustomOp",
    "Datatype",
    "Gates",
    "Golden",
    "GoldenSteps",
    "Graph",
    "ImageInput",
    "LanguageModelling",
    "Manifest",
    "Positions",
    "Precision",
    "PrecisionCost",
    "Site",
    "StepGraph",
    "Task",
    "TensorSpec",
    "ValueMap",
    "file_sha256",
    "read_bundle",
    "read_checksums",
    "verify_checksums",
    "write_checksums",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
CHECKSUMS_NAME = "SHA256SUMS"


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
    for file in manifest.files:
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
