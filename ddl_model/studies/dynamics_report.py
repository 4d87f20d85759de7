"""The study of dynamics along depth as tables and as a picture, from its results alone."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from ddl_model.studies.dynamics_networks import ARMS
from ddl_model.studies.dynamics_tasks import TASKS

Result = dict[str, Any]

_COLOURS = {
    "delta": "#0072B2",
    "delta-erase": "#56B4E9",
    "write-only": "#CC79A7",
    "additive": "#D55E00",
    "highway": "#009E73",
    "additive-long": "#E69F00",
}
"""Okabe and Ito's colours, which stay apart for colour-blind readers; line styles tell the arms apart as well."""

_STYLES = {"delta-erase": "--", "highway": "-.", "write-only": ":", "additive-long": (0, (6, 1, 1, 1, 1, 1))}
ENOUGH_SEEDS = 5
"""With fewer, even seeds that all agree settle nothing; five that agree have p = 0.06 by the two-sided sign test."""

_NOT_DRAWN = {"additive-wide"}


class DrawingError(RuntimeError):
    """The picture cannot be drawn here."""


def tables(results: list[Result], layers: int) -> str:
    """Return all tables in Markdown: medians of every task, the seeds of each task, the gates."""
    parts = [_medians(results, layers)]
    for name, task in TASKS.items():
        parts.append(f"**{task.title[0].upper()}{task.title[1:]}**\n\n{_seeds(_of_task(results, name), layers)}")
    parts.append(_gates(results))
    return "\n\n".join(parts)


def verdict(delta: list[float], other: list[float]) -> str:
    """Say which of two arms has the lower error in every seed, or that this is not settled."""
    seeds = len(delta)
    wins = sum(ours < theirs for ours, theirs in zip(delta, other, strict=True))
    if seeds < ENOUGH_SEEDS or 0 < wins < seeds:
        return f"not settled: delta lower in {wins} of {seeds}"
    return f"delta lower in {seeds} of {seeds}" if wins else f"this arm lower in {seeds} of {seeds}"


def at_depth(result: Result, depth: int) -> list[float]:
    """Return the relative errors of the seeds after `depth` layers."""
    return [errors[depth - 1] for errors in result["error"]]


def _of_task(results: list[Result], task: str) -> dict[str, Result]:
    """Return the results of a task by arm, in the order of the arms."""
    found = {result["arm"]: result for result in results if result["task"] == task}
    return {arm: found[arm] for arm in ARMS if arm in found}


def _short(value: float) -> str:
    return f"{value:.2g}" if value >= 0.001 else f"{value:.0e}".replace("e-0", "e-")


def _table(head: list[str], rows: Iterator[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _medians(results: list[Result], layers: int) -> str:
    def cell(arm: str, task: str) -> str:
        result = _of_task(results, task).get(arm)
        if result is None:
            return ""
        return ", ".join(_short(median(at_depth(result, depth))) for depth in (layers, 2 * layers))

    head = [f"median error at depth {layers}, {2 * layers}", *(task.title for task in TASKS.values())]
    return _table(head, ([ARMS[arm].title, *(cell(arm, task) for task in TASKS)] for arm in ARMS))


def _seeds(by_arm: dict[str, Result], layers: int) -> str:
    def rows() -> Iterator[list[str]]:
        for arm, result in by_arm.items():
            seeds = [" ".join(map(_short, at_depth(result, depth))) for depth in (layers, 2 * layers)]
            compared = verdict(at_depth(by_arm["delta"], 2 * layers), at_depth(result, 2 * layers))
            said = "" if arm == "delta" else compared
            yield [ARMS[arm].title, str(result["parameters"]), f"{result['learning_rate']:g}", *seeds, said]

    depths = [f"each seed, depth {depth}" for depth in (layers, 2 * layers)]
    return _table(["arm", "parameters", "learning rate", *depths, f"at depth {2 * layers}"], rows())


def _gates(results: list[Result]) -> str:
    def rows() -> Iterator[list[str]]:
        for name, task in TASKS.items():
            for arm, result in _of_task(results, name).items():
                for key, told in (("on", task.on), ("off", task.off)):
                    if values := result.get("beta", {}).get(key):
                        of_seeds = " ".join(f"{value:.2f}" for value in values)
                        yield [task.title, ARMS[arm].title, told, f"{median(values):.2f}", of_seeds]

    return _table(["task", "arm", "told to", "median β", "mean β of each seed"], rows())


def require_matplotlib() -> None:
    """Raise DrawingError with the way out where matplotlib is not installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise DrawingError(
            "the picture needs matplotlib: pip install 'deep-delta-serving[dev]', or add --no-image"
        ) from error


def draw_picture(results: list[Result], layers: int, path: Path) -> None:
    """Draw one episode, the errors over depth and the gates of the delta arm into a PNG file.

    Raises:
        DrawingError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    tasks = [name for name, task in TASKS.items() if not task.control]
    figure = Figure(figsize=(11, 9.5), layout="constrained")
    grid = figure.add_gridspec(3, len(tasks), height_ratios=[1, 1.35, 0.8])
    errors: Any = None
    for column, name in enumerate(tasks):
        by_arm = _of_task(results, name)
        _draw_episode(figure.add_subplot(grid[0, column]), by_arm, TASKS[name].title, layers, column == 0)
        errors = figure.add_subplot(grid[1, column], sharey=errors)
        _draw_errors(errors, by_arm, layers, column == 0)
    handles, labels = errors.get_legend_handles_labels()
    _draw_gates(figure.add_subplot(grid[2, :]), results, tasks)
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})


def _draw_episode(axes: Any, by_arm: dict[str, Result], title: str, layers: int, first: bool) -> None:
    axes.plot(by_arm["delta"]["example"]["truth"], "o", color="black", markersize=5, label="truth")
    for arm in ("additive", "delta"):
        axes.plot(by_arm[arm]["example"]["network"], color=_COLOURS[arm], linewidth=1.8, label=arm)
    axes.axvline(layers, color="0.6", linestyle=":")
    axes.set_title(title[0].upper() + title[1:])
    axes.set_xlabel("depth (layers)")
    axes.set_ylim(-2.2, 3.2)
    if first:
        axes.set_ylabel("one episode: the state\nalong one direction")
        axes.legend(loc="upper right", ncols=3, fontsize="small", frameon=False)


def _draw_errors(axes: Any, by_arm: dict[str, Result], layers: int, first: bool) -> None:
    for arm, result in by_arm.items():
        if arm in _NOT_DRAWN:
            continue
        depths = range(1, len(result["error"][0]) + 1)
        look: dict[str, Any] = {"color": _COLOURS[arm], "linestyle": _STYLES.get(arm, "-")}
        for errors in result["error"]:
            axes.plot(depths, errors, linewidth=0.5, alpha=0.45, **look)
        medians = [median(at_depth(result, depth)) for depth in depths]
        axes.plot(depths, medians, linewidth=2.2, label=ARMS[arm].title, **look)
    axes.set_yscale("log")
    axes.axvline(layers, color="0.6", linestyle=":")
    axes.text(layers, 1.02, "trained up to here", transform=axes.get_xaxis_transform(), ha="center", fontsize="small")
    axes.set_xlabel("depth (layers)")
    axes.grid(alpha=0.25)
    if first:
        axes.set_ylabel("error (1: a network that does nothing)\nmedian, and thin each seed")


def _draw_gates(axes: Any, results: list[Result], tasks: list[str]) -> None:
    labels: list[str] = []
    for name in tasks:
        beta = _of_task(results, name)["delta"]["beta"]
        for key, told in (("off", TASKS[name].off), ("on", TASKS[name].on)):
            if key in beta:
                spread = [len(labels) + 0.06 * (seed - len(beta[key]) / 2) for seed in range(len(beta[key]))]
                axes.plot(spread, beta[key], "o", color=_COLOURS["delta"], alpha=0.7)
                labels.append(f"{TASKS[name].title}:\n“{told}”")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks([0, 1, 2], ["0 keep", "1 overwrite", "2 reflect"])
    axes.set_ylim(-0.15, 2.15)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(axis="y", alpha=0.4)
    axes.set_title(
        "Mean gate that delta networks, β in (0, 2), learned for each instruction (one dot per seed)", fontsize="medium"
    )
