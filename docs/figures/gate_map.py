"""Draw the gates of one image as maps over its patches: the picture in the README.

make serve                      # in another terminal
.venv/bin/python docs/figures/gate_map.py docs/images/ankle-boot.png docs/images/gates.png
"""

import argparse
import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

from matplotlib import pyplot as plt  # the backend must be chosen before
from PIL import Image


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON answer to a JSON request."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        content: dict[str, Any] = json.load(answer)
    return content


def draw(image: Path, answer: dict[str, Any], out: Path) -> None:
    """Draw the image beside one map per site; blue keeps, white overwrites, red reflects."""
    beta = np.array(answer["results"][0]["tensors"]["beta"]["data"])
    rows, columns = answer["positions"]["grid"]
    sites = [site["name"] for site in answer["sites"]]
    figure, axes = plt.subplots(1, len(sites) + 1, figsize=(2.0 * (len(sites) + 1), 2.5), layout="constrained")
    top = answer["results"][0]["prediction"]["top"][0]
    axes[0].imshow(Image.open(image).convert("L"), cmap="gray")
    axes[0].set_title(f"{top['label']}, {top['probability']:.1%}")
    for axis, site, gates in zip(axes[1:], sites, beta, strict=True):
        shown = axis.imshow(gates.reshape(rows, columns), cmap="RdBu_r", vmin=0, vmax=2)
        axis.set_title(f"{site}, mean {gates.mean():.2f}")
    for axis in axes:
        axis.set_xticks([])
        axis.set_yticks([])
    bar = figure.colorbar(shown, ax=list(axes), shrink=0.8, ticks=[0, 1, 2])
    bar.ax.set_yticklabels(["0 keep", "1 overwrite", "2 reflect"])
    bar.set_label("gate β")
    figure.savefig(out, dpi=110)


def main() -> None:
    """Ask a running service for the gates of an image and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (default: %(default)s)")
    parser.add_argument("--model", default="fashion-mnist", help="to ask (default: %(default)s)")
    options = parser.parse_args()
    body = {"inputs": {"image": base64.b64encode(options.image.read_bytes()).decode()}, "quantities": "core"}
    draw(options.image, ask(f"{options.url}/v1/models/{options.model}/gates", body), options.out)


if __name__ == "__main__":
    main()
