"""Can networks with a delta rewrite follow non-monotonic dynamics along depth, and can others? Train and measure.

Every pair of task and arm is one job: all seeds at all learning rates train side by side, the learning rate with the
lowest median validation error is kept, and its networks are tested at depths up to four times the trained one.
"""

import functools
import math
import multiprocessing
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ddl_model.studies.dynamics_networks import ARMS, StackedNetworks, Trajectory
from ddl_model.studies.dynamics_tasks import TASKS, Episodes, Task
from ddl_model.training.optimizer import learning_rate_at

Parameters = dict[str, Tensor]

_TRAINING, _VALIDATION, _TEST = 1_000_000, 2_000_000, 3_000_000
"""Added to a seed: training, validation and test draw from different generators, the same ones for every arm."""

_STEPS_AT_ONCE = 50
_TEST_BATCHES = 5


class StudyError(RuntimeError):
    """A job has no result that could be reported."""


@dataclass(frozen=True)
class Plan:
    """What every job has in common. The first `layers` depths are trained, `test_layers` are tested."""

    seeds: int = 5
    steps: int = 2000
    batch: int = 64
    layers: int = 8
    test_layers: int = 32
    test_episodes: int = 1000
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    warmup: float = 0.05
    gradient_norm: float = 1.0


QUICK = Plan(seeds=2, steps=40, test_layers=16, test_episodes=100, learning_rates=(0.03, 0.1))
"""Whether everything runs, in a minute; its numbers mean nothing."""


@dataclass(frozen=True)
class Job:
    """One arm on one task, by their names."""

    task: str
    arm: str


def all_jobs() -> list[Job]:
    """Return every arm on every task, except the extra arms on the controls; the longest jobs first."""
    jobs = [Job(t, a) for t, task in TASKS.items() for a, arm in ARMS.items() if not (arm.extra and task.control)]
    return sorted(jobs, key=lambda job: not ARMS[job.arm].extra)


def draw(task: Task, count: int, layers: int, generators: list[torch.Generator]) -> Episodes:
    """Draw episodes per generator, stacked along a new first axis."""
    drawn = [task.episodes(count, layers, generator) for generator in generators]
    return Episodes(*(torch.stack(parts) for parts in zip(*drawn, strict=True)))


def _generators(plan: Plan, purpose: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(purpose + seed) for seed in range(plan.seeds)]


def _batches(task: Task, steps: int, plan: Plan) -> Iterator[Episodes]:
    """Yield one batch per step; drawing for many steps at once is cheaper."""
    generators = _generators(plan, _TRAINING)
    for start in range(0, steps, _STEPS_AT_ONCE):
        drawn = min(_STEPS_AT_ONCE, steps - start)
        pool = draw(task, drawn * plan.batch, plan.layers, generators)
        for parts in zip(*(part.split(plan.batch, dim=1) for part in pool), strict=True):
            yield Episodes(*parts)


def _run(networks: StackedNetworks, copies: list[Parameters], episodes: Episodes) -> Trajectory:
    """Run every copy of the networks on the same episodes; the copies follow each other on the first axis."""
    joined = {name: torch.cat([copy[name] for copy in copies]) for name in copies[0]}
    instructions = episodes.instructions.repeat(len(copies), 1, 1, 1)
    first = episodes.states[:, :, 0].repeat(len(copies), 1, 1)
    out: Trajectory = torch.func.functional_call(networks, joined, (first, instructions))
    return out


def _clip(copy: Parameters, most: float) -> None:
    """Shorten the gradient of each network to `most`, by itself."""
    gradients = [parameter.grad for parameter in copy.values() if parameter.grad is not None]
    norms = torch.cat([gradient.flatten(1) for gradient in gradients], 1).norm(dim=1)
    for gradient in gradients:
        gradient *= (most / norms.clamp_min(most))[:, None, None]


def train(task: Task, networks: StackedNetworks, plan: Plan) -> list[Parameters]:
    """Train a copy of all networks per learning rate, on the same episodes in the same order; return the copies."""
    copies = [
        {name: parameter.detach().clone().requires_grad_() for name, parameter in networks.named_parameters()}
        for _ in plan.learning_rates
    ]
    optimizer = torch.optim.Adam([{"params": list(copy.values())} for copy in copies], betas=(0.9, 0.99))
    steps = plan.steps * networks.arm.times_steps
    for step, episodes in enumerate(_batches(task, steps, plan)):
        for group, peak in zip(optimizer.param_groups, plan.learning_rates, strict=True):
            group["lr"] = learning_rate_at(step, steps, peak, plan.warmup)
        states = _run(networks, copies, episodes).states.unflatten(0, (len(copies), plan.seeds))
        scored = slice(1, None) if task.every_depth else slice(-1, None)
        errors = (states - episodes.states)[:, :, :, scored].square().mean((2, 3, 4))
        optimizer.zero_grad()
        errors.sum().backward()
        for copy in copies:
            _clip(copy, plan.gradient_norm)
        optimizer.step()
    return copies


def _excess(states: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return per network and depth the summed squared error, and that of a network that does nothing."""
    wrong = (states - truth)[:, :, 1:].square().sum((1, 3))
    idle = (truth[:, :, :1] - truth)[:, :, 1:].square().sum((1, 3))
    return wrong, idle


@torch.no_grad()
def _choose(task: Task, networks: StackedNetworks, copies: list[Parameters], plan: Plan) -> list[float]:
    """Return per learning rate the median validation error at the trained depth, infinite where a network diverged."""
    episodes = draw(task, plan.test_episodes // _TEST_BATCHES, plan.layers, _generators(plan, _VALIDATION))
    medians = []
    for copy in copies:
        wrong, idle = _excess(_run(networks, [copy], episodes).states, episodes.states)
        error = wrong[:, -1] / idle[:, -1]
        medians.append(float(error.median()) if error.isfinite().all() else math.inf)
    return medians


@torch.no_grad()
def _test(task: Task, networks: StackedNetworks, copy: Parameters, plan: Plan) -> dict[str, Any]:
    """Return relative errors per seed and depth, and for delta arms the mean gates per seed and instruction."""
    generators = _generators(plan, _TEST)
    batches = []
    for _ in range(_TEST_BATCHES):
        episodes = draw(task, plan.test_episodes // _TEST_BATCHES, plan.test_layers, generators)
        seen = _run(networks, [copy], episodes)
        on = episodes.instructions[..., -2]
        gates = [part.sum((1, 2)) for part in (seen.gates * on, on, seen.gates * (1 - on), 1 - on)]
        batches.append((*_excess(seen.states, episodes.states), *gates))
    wrong, idle, beta_on, on, beta_off, off = (torch.stack(parts).sum(0) for parts in zip(*batches, strict=True))
    result: dict[str, Any] = {"error": _rounded(wrong / idle)}
    if networks.arm.rule == "delta":
        told = {"on": (beta_on, on), "off": (beta_off, off)}
        result["beta"] = {bit: _rounded(total / count) for bit, (total, count) in told.items() if count.all()}
    return result


@torch.no_grad()
def _example(task: Task, networks: StackedNetworks, copy: Parameters, plan: Plan) -> dict[str, Any]:
    """Return the component along the probe over depth, in truth and in the network of seed 0, of one test episode.

    Of 200 episodes the one that moves more, in truth, than three quarters of them: a choice that knows no arm.
    """
    episodes = draw(task, 200, 2 * plan.layers, _generators(plan, _TEST))
    truth, seen = (
        (states[0] @ episodes.probe[0].unsqueeze(-1)).squeeze(-1)
        for states in (episodes.states, _run(networks, [copy], episodes).states)
    )
    chosen = truth.diff().abs().sum(-1).argsort()[150]
    return {"truth": _rounded(truth[chosen]), "network": _rounded(seen[chosen])}


def _rounded(values: Tensor) -> Any:
    """Return nested lists of floats with four digits: more would not be stable between machines."""
    if values.ndim:
        return [_rounded(value) for value in values]
    return float(f"{float(values):.4g}")


def run_job(job: Job, plan: Plan) -> dict[str, Any]:
    """Train, choose the learning rate and test; return plain numbers.

    Raises:
        StudyError: a network diverged at every learning rate, or in the test.
    """
    task, arm = TASKS[job.task], ARMS[job.arm]
    networks = StackedNetworks(arm, list(range(plan.seeds)))
    copies = train(task, networks, plan)
    medians = _choose(task, networks, copies, plan)
    best = min(range(len(medians)), key=medians.__getitem__)
    tested = _test(task, networks, copies[best], plan)
    if not all(math.isfinite(error) for of_seed in tested["error"] for error in of_seed):
        raise StudyError(f"{arm.title} on {task.title} diverged: give lower learning rates in Plan")
    return {
        **asdict(job),
        "parameters": networks.parameters_each(),
        "learning_rate": plan.learning_rates[best],
        "validation": {str(rate): float(f"{m:.4g}") for rate, m in zip(plan.learning_rates, medians, strict=True)},
        **tested,
        "example": _example(task, networks, copies[best], plan),
    }


def run_jobs(jobs: list[Job], plan: Plan, processes: int) -> Iterator[dict[str, Any]]:
    """Yield the result of each job as it ends, in no particular order; one thread per process."""
    if processes == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield from (run_job(job, plan) for job in jobs)
        finally:
            torch.set_num_threads(threads)
        return
    # Leaving the block, by Ctrl-C too, ends the workers at once.
    with multiprocessing.get_context("spawn").Pool(processes, _start_worker) as pool:
        yield from pool.imap_unordered(functools.partial(run_job, plan=plan), jobs)


def _start_worker() -> None:
    """Use one thread, and leave Ctrl-C to the process that waits for the results."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
