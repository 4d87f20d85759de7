"""The bundle format: what `export` writes and the service reads. The reader owns the format.

A bundle is one folder, `REPOSITORY/NAME/VERSION/`:

    manifest.json            `Manifest`, its parts in `service/manifest`
    graphs/model.onnx        the graph, with the plain body of every custom op attached
    golden/samples.safetensors   inputs `input/NAME` and what torch answered, `output/NAME`
    graphs/step.onnx         language models: the graph of one step with a cache
    golden/step.safetensors  steps in a row, from an empty cache: `STEP/input/NAME`, `STEP/output/NAME`
    graphs/weights.bin       the weights that both graphs share, as ONNX external data
    head.safetensors         how classes or words are read off a state; bundles in float32
    tokenizer.json           language models, where there is one
    chat_template.jinja      language models of conversations: a Jinja2 template (optional)
    reference.json           the gates of a data set, which live traffic is compared with (optional; `ddl-audit`)
    PARITY.md                the export's report: torch, plain body, kernel on the same samples
    MODEL_CARD.md            what the model is, its data, its figures, its limits (optional)
    SHA256SUMS               one line for each other file, as `sha256sum` writes and checks it
    SHA256SUMS.minisig       signature of that list (optional), as minisign writes and checks it
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from service.errors import BundleCorrupt, BundleIncomplete, BundleInvalid
from service.manifest.gates import Depth, Gates, Head, Positions, Site, ValueMap
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
    "Depth",
    "Gates",
    "Golden",
    "GoldenSteps",
    "Graph",
    "Head",
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
    "parse_checksums",
    "read_bundle",
    "read_checksums",
    "verify_checksums",
    "write_checksums",
    "write_manifest",
]

MANIFEST_NAME = "manifest.json"
CHECKSUMS_NAME = "SHA256SUMS"
SIGNATURE_NAME = CHECKSUMS_NAME + ".minisig"
_UNLISTED = {CHECKSUMS_NAME, SIGNATURE_NAME}


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
        BundleCorrupt: a file is missing, was added or has another checksum.
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
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in names if name not in _UNLISTED]
    (folder / CHECKSUMS_NAME).write_text("".join(lines), encoding="utf-8")


def read_checksums(folder: Path) -> dict[str, str]:
    """Return file name to SHA-256 as `SHA256SUMS` lists them.

    Raises:
        BundleCorrupt: the list is missing, a line is not of the form `HASH  NAME`, or a name leaves the folder.
    """
    path = folder / CHECKSUMS_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleIncomplete(f"{path} is missing") from error
    except OSError as error:
        raise BundleCorrupt(f"{path} cannot be read: {error}") from error
    return parse_checksums(content, str(path))


def parse_checksums(content: bytes, source: str) -> dict[str, str]:
    """Return file name to SHA-256 from the content of a `SHA256SUMS`; `source` is where it stands, for messages.

    Raises:
        BundleCorrupt: a line is not of the form `HASH  NAME`, or a name leaves the folder or comes twice.
    """
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise BundleCorrupt(f"{source} cannot be read: {error}") from error
    sums: dict[str, str] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not _is_inside(name) or name in sums:
            raise BundleCorrupt(f"{source}: not a line of sha256sum: {line[:100]!r}")
        sums[name] = digest
    if MANIFEST_NAME not in sums:
        raise BundleCorrupt(f"{source} does not list {MANIFEST_NAME}")
    return sums


def _is_inside(name: str) -> bool:
    """Tell whether a file's name is plain: relative, without steps upwards, the same on every system."""
    return (
        name.isprintable()
        and not set(name) & set('\\:*?"<>|')
        and all(part not in ("", ".", "..") for part in name.split("/"))
    )


def verify_checksums(folder: Path) -> None:
    """Compare every listed file with its checksum, and look for others.

    Raises:
        BundleIncomplete: a file is missing.
        BundleCorrupt: a file differs, is not listed, or is a link to somewhere outside of the bundle.
    """
    sums = read_checksums(folder)
    home = folder.resolve()
    for name in sums:
        path = folder / name
        if not path.is_file():
            raise BundleIncomplete(f"{path} is missing")
        if not path.resolve().is_relative_to(home):
            raise BundleCorrupt(f"{path} is a link that leaves the bundle: copy the file")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name not in sums and name not in _UNLISTED and not path.is_dir():
            raise BundleCorrupt(f"{path} is not listed in {CHECKSUMS_NAME}: remove it")
    for name, expected in sums.items():
        actual = file_sha256(folder / name)
        if actual != expected:
            raise BundleCorrupt(f"{folder / name} has SHA-256 {actual}, expected {expected}")


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`, indented for people."""
    content = manifest.model_dump(mode="json", by_alias=True)
    (folder / MANIFEST_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
