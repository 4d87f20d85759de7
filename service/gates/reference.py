"""`reference.json` of a bundle: the gates of a data set, which live traffic is compared with. `ddl-audit` writes it."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.bundle import Manifest
from service.errors import BundleInvalid
from service.gates.live.histograms import BINS

REFERENCE_NAME = "reference.json"
SCHEMA = "ddl.gates.reference/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ReferenceData(_Part):
    """The data set: whole sequences (texts, images), and all their tokens (or patches)."""

    name: str
    sha256: str
    sequences: int = Field(ge=1)
    tokens: int = Field(ge=1)


class Reference(_Part):
    """Histograms of beta on [0, 2] by site, and how far a window of the same data strays from them.

    `thresholds[i][site]` is the 99.9 % quantile of the distance of `windows[i]` whole sequences from all of them.
    """

    schema_: Literal["ddl.gates.reference/1"] = Field(alias="schema")
    id: str
    created: str
    weights_sha256: str
    dataset: ReferenceData
    sites: tuple[str, ...] = Field(min_length=1)
    counts: tuple[tuple[int, ...], ...]
    windows: tuple[int, ...] = Field(min_length=1)
    thresholds: tuple[tuple[float, ...], ...]

    @model_validator(mode="after")
    def _agrees(self) -> "Reference":
        if len(self.counts) != len(self.sites) or any(len(row) != BINS or not sum(row) for row in self.counts):
            raise ValueError(f"counts must have {BINS} numbers for each of the {len(self.sites)} sites, not all 0")
        if len(self.thresholds) != len(self.windows) or any(len(row) != len(self.sites) for row in self.thresholds):
            raise ValueError("thresholds must have a row for each window and a number for each site")
        if list(self.windows) != sorted(set(self.windows)) or self.windows[0] < 1:
            raise ValueError("windows must grow")
        return self

    def histograms(self) -> NDArray[np.int64]:
        """Return the counts as (site, bin)."""
        return np.array(self.counts, np.int64)


def read_reference(folder: Path, manifest: Manifest) -> Reference | None:
    """Read the reference of a bundle, or None where it has none.

    Raises:
        BundleInvalid: it does not follow the format, or was made of another model.
    """
    path = folder / REFERENCE_NAME
    if not path.exists() or manifest.gates is None:
        return None
    try:
        reference = Reference.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "reference"
        raise BundleInvalid(f"{path}: {where}: {first['msg']}") from error
    if reference.weights_sha256 != manifest.weights_sha256:
        raise BundleInvalid(f"{path} was made of other weights, {reference.weights_sha256[:12]}: audit this model")
    if reference.sites != tuple(site.name for site in manifest.gates.sites):
        raise BundleInvalid(f"{path} has other sites than the model: audit this model")
    return reference
