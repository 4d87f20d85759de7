"""Draw the panels that the compose test has read: `COMPOSE_TEST_PANELS=FILE make compose-test`, then this with FILE.

    python -m tests.docker.plot FILE FOLDER

One picture for each dashboard, `dashboard-serving.png` and `dashboard-gates.png`: the provisioned panels, their queries
and Prometheus' answers to them, drawn by matplotlib in Grafana's place.
"""

import gzip
import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def legend(template: str, metric: dict[str, str]) -> str:
    """Fill a legend as Grafana does."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: metric.get(found[1], ""), template)


def heat(axis: Any, result: list[dict[str, Any]]) -> None:
    """Draw a cumulative histogram over time as a heat map of its buckets."""
    edges = sorted((one for one in result if one["metric"]["le"] != "+Inf"), key=lambda one: float(one["metric"]["le"]))
    counts = np.array([[float(value) for _, value in one["values"]] for one in edges])
    times = [float(at) - float(edges[0]["values"][-1][0]) for at, _ in edges[0]["values"]]
    upper = [float(one["metric"]["le"]) for one in edges]
    axis.pcolormesh(times, upper, np.diff(counts, axis=0, prepend=0), shading="nearest", cmap="cividis")


def draw(title: str, queries: list[dict[str, Any]], path: Path) -> None:
    """Draw one dashboard."""
    panels = [(name, list(group)) for name, group in groupby(queries, lambda one: one["panel"])]
    rows = (len(panels) + 2) // 3
    figure, axes = plt.subplots(rows, 3, figsize=(15, 2.9 * rows), layout="constrained", squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, group) in zip(axes.flat, panels, strict=False):
        axis.set_title(name, fontsize=10, loc="left")
        found = group[0]["answer"]["data"]["result"]
        if found and all("le" in one["metric"] for one in found):
            heat(axis, found)
            continue
        for one in group:
            for series in one["answer"]["data"]["result"]:
                times, values = zip(*((float(at), float(value)) for at, value in series["values"]), strict=True)
                end = times[-1]
                axis.plot(
                    [at - end for at in times], values, label=legend(one["legend"], series["metric"]), linewidth=1.2
                )
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            axis.legend(handles[:8], [label[:44] for label in labels[:8]], fontsize=6, loc="upper left")
        else:
            axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes, color="grey")
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    figure.suptitle(f"{title} (seconds before the reading)", fontsize=12)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(file: Path, folder: Path) -> None:
    """Draw every dashboard of a file."""
    read = json.loads(gzip.decompress(file.read_bytes()))
    for title, group in groupby(read, lambda one: one["dashboard"]):
        draw(title, list(group), folder / f"dashboard-{title.rpartition(' ')[2]}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
