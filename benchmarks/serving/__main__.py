"""Measure servers side by side: `python -m benchmarks.serving [--model mlp] [--connections 1 8 32 64] [--out FILE]`.

The server has one core, the load (wrk) the other. What counts is requests per CPU second of all the server's processes:
that hardly changes when others use the machine as well, and it is what a server costs. Each server is measured in turn
with the naive handler, and each figure is also given against the naive handler of the same round.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import report
from benchmarks.serving import models, payloads
from benchmarks.serving.peers import PEERS, Peer, python_of
from benchmarks.serving.process import Server, machine_ticks, other_load, wait_for_quiet

_SCRIPT = Path(__file__).parent / "load.lua"
_WARM_UP_SECONDS, _WARM_UPS = 1, 30
_NAIVE = "naive"


@dataclass(frozen=True)
class Figures:
    """What one run of the load showed; `others` is how many cores were busy with something else."""

    per_cpu_second: float
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int
    others: float


@dataclass(frozen=True)
class Measured:
    """A server in one round: its figures by number of connections, its start and its memory."""

    figures: dict[int, Figures]
    start_seconds: float
    megabytes: float


def main() -> None:
    """Run the command line."""
    options = _parser().parse_args()
    asked = {name: python_of(name, options.environments) for name in options.servers}
    for name in [name for name, python in asked.items() if python is None]:
        print(f"{name} is not installed below {options.environments}: left out", file=sys.stderr)
        del asked[name]
    rounds: list[dict[str, Measured]] = []
    with TemporaryDirectory() as folder:
        for _ in range(options.rounds):
            rounds.append({})
            for name, python in asked.items():
                assert python is not None
                rounds[-1][name] = measure(name, python, options, Path(folder))
                print(name, rounds[-1][name], file=sys.stderr)
    report.publish(_report(rounds, options), options.out)


def measure(name: str, python: str, options: argparse.Namespace, folder: Path) -> Measured:
    """Start a server, load it with each number of connections, and stop it."""
    peer = PEERS[name]
    graph = models.write(options.models, options.model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, environment = peer.filled(python, port, graph, options.model)
    base = f"http://127.0.0.1:{port}"
    server = Server(
        command, environment, base + peer.ready.format(model=options.model), options.server_core, folder / f"{name}.log"
    )
    try:
        run = _Load(peer, base, options, folder)
        for _ in range(_WARM_UPS):  # some say that they are ready before their model is
            if run(server, options.connections[0], _WARM_UP_SECONDS).per_second > 0:
                break
        else:
            raise RuntimeError(f"{name} answers nothing")
        figures = {count: run(server, count, options.seconds) for count in options.connections}
        return Measured(figures, server.start_seconds, server.resident_bytes() / 1e6)
    finally:
        server.stop()


class _Load:
    def __init__(self, peer: Peer, base: str, options: argparse.Namespace, folder: Path) -> None:
        self._base = base
        self._core = str(options.load_core)
        self._patience = options.patience
        self._environment = {
            **os.environ,
            "BODIES": str(payloads.write(folder, peer.format, peer.shape)),
            "TARGET": peer.target.format(model=options.model),
        }

    def __call__(self, server: Server, connections: int, seconds: int) -> Figures:
        # Without --timeout wrk gives requests up after two seconds, and slow servers would look faster.
        flags = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", "-s", str(_SCRIPT)]
        wait_for_quiet(self._patience)
        ticks, cpu, own = machine_ticks(), server.cpu_seconds(), os.times()
        done = subprocess.run(
            ["taskset", "-c", self._core, "wrk", *flags, self._base],
            env=self._environment,
            capture_output=True,
            text=True,
            check=True,
        )
        used = server.cpu_seconds() - cpu
        now = os.times()
        load = now.children_user + now.children_system - own.children_user - own.children_system
        found = json.loads(done.stdout.strip().splitlines()[-1])
        answered = found["requests"] - found["refused"]
        return Figures(
            answered / max(used, 1e-9),
            answered / found["seconds"],
            found["p50_ms"],
            found["p99_ms"],
            found["broken"] + found["refused"],
            other_load(used + load, ticks, machine_ticks()),
        )


def _report(rounds: list[dict[str, Measured]], options: argparse.Namespace) -> str:
    head = ["server", *(f"c={count}" for count in options.connections), "p99 ms", "MB", "start s", "failed", "others"]
    rows = []
    for name in rounds[0]:
        cells = [_cell(rounds, name, count) for count in options.connections]
        last = options.connections[-1]
        every = [measured[name] for measured in rounds]
        p99 = statistics.median(measured.figures[last].p99_ms for measured in every)
        failed = sum(figures.failed for measured in every for figures in measured.figures.values())
        others = statistics.mean(figures.others for measured in every for figures in measured.figures.values())
        memory = statistics.median(measured.megabytes for measured in every)
        start = statistics.median(measured.start_seconds for measured in every)
        rows.append([name, *cells, f"{p99:.1f}", f"{memory:.0f}", f"{start:.1f}", str(failed), f"{others:.2f}"])
    about = [
        f"- {report.today()}, {report.processor()}; server on core {options.server_core}, wrk on {options.load_core}",
        f"- {report.versions('onnxruntime', 'uvicorn', 'fastapi')}",
        f"- {options.model}: answered requests per CPU second of the server, in brackets against the naive handler of "
        f"the same round; median of {len(rounds)} rounds of {options.seconds} s",
        f"- p99 at c={options.connections[-1]}; others: cores that were busy with something else",
    ]
    return "\n".join([*about, "", report.table(head, rows)])


def _cell(rounds: list[dict[str, Measured]], name: str, count: int) -> str:
    own = statistics.median(measured[name].figures[count].per_cpu_second for measured in rounds)
    if _NAIVE not in rounds[0]:
        return report.number(own)
    ratios = [
        measured[name].figures[count].per_cpu_second / measured[_NAIVE].figures[count].per_cpu_second
        for measured in rounds
    ]
    return f"{report.number(own)} (x{statistics.median(ratios):.2f})"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("servers", nargs="*", choices=list(PEERS), default=list(PEERS), metavar="SERVER")
    parser.add_argument("--model", choices=list(models.MODELS), default="mlp")
    parser.add_argument("--models", type=Path, default=Path("build/benchmark-models"), help="folder for the bundles")
    parser.add_argument("--environments", type=Path, help="folder of the peers' virtual environments, by name")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=int, default=4, help="length of each run of the load")
    parser.add_argument("--rounds", type=int, default=1, help="how often everything is measured")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait before a run for a quiet machine")
    parser.add_argument("--server-core", type=int, default=1)
    parser.add_argument("--load-core", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the table in a file, too")
    return parser


if __name__ == "__main__":
    main()
