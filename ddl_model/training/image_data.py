"""Labelled images in memory: reading them, splitting them, and turning them into augmented batches."""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from ddl_model.training.errors import DataError

_IDX_UINT8 = 8


@dataclass(frozen=True)
class ImageSet:
    """Grey images as bytes, with one class number each."""

    images: UInt8[Tensor, "n h w"]
    labels: UInt8[Tensor, " n"]

    def __post_init__(self) -> None:
        """Refuse images and labels of different number."""
        if len(self.images) != len(self.labels):
            raise DataError(f"{len(self.images)} images with {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.images)

    def split(self, held_out: int) -> tuple["ImageSet", "ImageSet"]:
        """Return all but the last `held_out` images, and those.

        Raises:
            DataError: nothing would be left.
        """
        kept = len(self) - held_out
        if kept < 1 or held_out < 1:
            raise DataError(f"cannot hold out {held_out} of {len(self)} images")
        return ImageSet(self.images[:kept], self.labels[:kept]), ImageSet(self.images[kept:], self.labels[kept:])

    def sha256(self) -> str:
        """Return a hash of all pixels and labels."""
        digest = hashlib.sha256(self.images.numpy().tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


def read_idx(name: str, places: Sequence[Path], sha256: str, hint: str) -> UInt8[Tensor, "..."]:
    """Read an IDX file of bytes, plain or gzipped, from the first of `places` that has it.

    `sha256` is that of the unpacked file. Source of the format: Y. LeCun's MNIST page.

    Raises:
        DataError: it is in none of the places (the message ends with `hint`), damaged, or another file.
    """
    paths = [place / file for place in places for file in (f"{name}.gz", name)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise DataError(f"{name} was not found in {' or '.join(str(place) for place in places)}. {hint}")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != sha256:
        raise DataError(f"{path} is not the original file: SHA-256 {actual}, expected {sha256}")
    _, _, kind, axes = struct.unpack(">BBBB", content[:4])
    shape = struct.unpack(f">{axes}I", content[4 : 4 + 4 * axes])
    if kind != _IDX_UINT8:
        raise DataError(f"{path} holds values of IDX type {kind}, expected bytes ({_IDX_UINT8})")
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)
    return torch.from_numpy(values.copy())


def normalise(images: UInt8[Tensor, "b h w"], mean: float, std: float) -> Float[Tensor, "b 1 h w"]:
    """Return the model's pixel tensor, `(pixel / 255 - mean) / std`."""
    return ((images.unsqueeze(1).float() / 255.0) - mean) / std


def epoch_order(images: int, seed: int, epoch: int) -> Int64[Tensor, " n"]:
    """Return the order in which an epoch visits the images: a function of seed and epoch alone."""
    return torch.randperm(images, generator=seeded_generator(seed, epoch, 0))


def augment(
    images: UInt8[Tensor, "b h w"], shift_pixels: int, seed: int, step: int, mirror: bool = True
) -> UInt8[Tensor, "b h w"]:
    """Mirror half of the images (or none) and move each by up to `shift_pixels`, filling with zeros.

    The outcome is a function of seed and step alone, so a resumed run continues with the same images.
    """
    generator = seeded_generator(seed, step, 1)
    batch, height, width = images.shape
    mirrored = torch.rand(batch, generator=generator) < 0.5
    if mirror:
        images = torch.where(mirrored[:, None, None], images.flip(-1), images)
    if shift_pixels == 0:
        return images
    down, right = torch.randint(0, 2 * shift_pixels + 1, (2, batch), generator=generator)
    padded = torch.nn.functional.pad(images, [shift_pixels] * 4)
    windows = padded.unfold(1, height, 1).unfold(2, width, 1)
    return windows[torch.arange(batch), down, right]


def erase(images: UInt8[Tensor, "b h w"], side: int, seed: int, step: int) -> UInt8[Tensor, "b h w"]:
    """Blacken a square of `side` pixels around a random point of each image; at the edges it is cut off.

    The outcome is a function of seed and step alone. Source: DeVries and Taylor, "Cutout", arXiv 1708.04552.
    """
    generator = seeded_generator(seed, step, 2)
    batch, height, width = images.shape
    top = torch.randint(0, height, (batch, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (batch, 1), generator=generator) - side // 2
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + side)
    inside_columns = (columns >= left) & (columns < left + side)
    return images.masked_fill(inside_rows[:, :, None] & inside_columns[:, None, :], 0)


def seeded_generator(seed: int, position: int, stream: int) -> torch.Generator:
    """Return a generator whose state depends on all three numbers; `stream` tells apart what is drawn from it."""
    mixed = hashlib.sha256(struct.pack(">qqq", seed, position, stream)).digest()
    return torch.Generator().manual_seed(int.from_bytes(mixed[:8], "big") >> 1)
