"""The Fashion-MNIST data set (Zalando, MIT licence): 60,000 + 10,000 grey images of clothes, 28 x 28, 10 classes."""

from pathlib import Path

from ddl_model.training.image_data import ImageSet, read_idx

LABELS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""Class names in the order of the data set's label numbers."""

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
"""Checksums of the unpacked files: archives differ from source to source, their content does not."""

PIXEL_MEAN, PIXEL_STD = 0.2860, 0.3530
"""Of the training set's pixels, as fractions of white."""

PLACES = (Path("data/fashion-mnist"), Path("/usr/share/datasets/fashion-mnist"))
INSTALL = "sudo apt-get install dataset-fashion-mnist"


def load(folder: Path | None = None, checksums: dict[str, str] = SHA256) -> tuple[ImageSet, ImageSet]:
    """Return the training and the test set from gzipped or plain IDX files.

    Without `folder` the usual places are searched.

    Raises:
        DataError: a file is missing (the message names the command that installs it), damaged or not the original.
    """
    places = PLACES if folder is None else (folder,)
    hint = f"Install it with `{INSTALL}` (Debian, Ubuntu), or name a folder that holds the four IDX files with --data."
    files = {name: read_idx(name, places, digest, hint) for name, digest in checksums.items()}
    return (
        ImageSet(files["train-images-idx3-ubyte"], files["train-labels-idx1-ubyte"]),
        ImageSet(files["t10k-images-idx3-ubyte"], files["t10k-labels-idx1-ubyte"]),
    )
