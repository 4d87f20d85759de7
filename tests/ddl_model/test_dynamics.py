"""The study of dynamics along depth: its tasks are what they say, its comparison is fair, its document is true."""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ddl_model.studies import __main__ as cli
from ddl_model.studies import dynamics_report as report
from ddl_model.studies.dynamics import QUICK, Job, Plan, all_jobs, run_job, run_jobs, train
from ddl_model.studies.dynamics_networks import ARMS, StackedNetworks
from ddl_model.studies.dynamics_tasks import TASKS, WIDTH, Episodes

TINY = replace(QUICK, steps=3, batch=8, layers=4, test_layers=8, test_episodes=20)
LAYERS = 16


def some(task: str, count: int = 40) -> Episodes:
    return TASKS[task].episodes(count, LAYERS, torch.Generator().manual_seed(7))


def directions_bits_values(episodes: Episodes) -> tuple[Tensor, Tensor, Tensor]:
    told = episodes.instructions
    return told[..., :WIDTH], told[..., WIDTH], told[..., WIDTH + 1]


@pytest.mark.parametrize("task", TASKS)
def test_directions_have_length_one_and_states_keep_theirs(task: str) -> None:
    episodes = some(task)
    ones = torch.ones(40, LAYERS)
    torch.testing.assert_close(directions_bits_values(episodes)[0].norm(dim=-1), ones)
    torch.testing.assert_close(episodes.states.norm(dim=-1), torch.full((40, LAYERS + 1), math.sqrt(WIDTH)))


@pytest.mark.parametrize("task", ["flip", "flip-last"])
def test_flip_follows_the_parity_of_the_bits(task: str) -> None:
    episodes = some(task)
    direction, bits, _ = directions_bits_values(episodes)
    assert torch.equal(direction, direction[:, :1].expand_as(direction))
    assert 0.4 < float(bits.mean()) < 0.6
    along = torch.einsum("nld,nd->nl", episodes.states, direction[:, 0])
    for episode in range(40):
        ones = 0
        for layer in range(LAYERS):
            ones += int(bits[episode, layer])
            assert float(along[episode, layer + 1]) == pytest.approx((-1) ** ones * float(along[episode, 0]), abs=1e-5)
    across = episodes.states - along.unsqueeze(-1) * direction[:, :1]
    torch.testing.assert_close(across, across[:, :1].expand_as(across))


def test_rotate_is_a_chain_of_reflections_that_turns_by_twice_the_angle_between_them() -> None:
    episodes = some("rotate")
    direction, bits, _ = directions_bits_values(episodes)
    assert bits.all()
    state = episodes.states[:, 0].double()
    for layer in range(LAYERS):
        k = direction[:, layer].double()
        state = state - 2 * k * (k * state).sum(-1, keepdim=True)
        torch.testing.assert_close(episodes.states[:, layer + 1], state.float(), atol=1e-5, rtol=0)
    # In the plane of the two directions: the angle between states two layers apart is twice that of the directions.
    plane = torch.linalg.qr(direction[:, :2].mT).Q
    first, later = (episodes.states[:, depth].unsqueeze(1) @ plane for depth in (0, 2))
    turned = (first * later).sum((1, 2)) / (first.norm(dim=(1, 2)) * later.norm(dim=(1, 2)))
    between = (direction[:, 0] * direction[:, 1]).sum(-1)
    torch.testing.assert_close(turned, 2 * between.square() - 1, atol=1e-4, rtol=0)
    assert float(between.abs().min()) < 0.3 < 0.9 < float(between.abs().max())


@pytest.mark.parametrize("task", ["overwrite", "overwrite-axes"])
def test_overwrite_reads_the_last_value_written_to_each_slot(task: str) -> None:
    episodes = some(task)
    direction, bits, values = directions_bits_values(episodes)
    for episode in range(40):
        written: list[tuple[Tensor, float]] = []
        for layer in range(LAYERS):
            slot = direction[episode, layer]
            if bits[episode, layer]:
                written = [(old, value) for old, value in written if abs(float(old @ slot)) < 0.5]
                written.append((slot, float(values[episode, layer])))
            for old, value in written:
                assert float(old @ episodes.states[episode, layer + 1]) == pytest.approx(value, abs=1e-5)
        assert 1 <= len(written) <= WIDTH
    assert set(values.unique().tolist()) == {-1.0, 1.0}


def test_known_slots_are_the_axes_and_others_are_not() -> None:
    axes, free = (directions_bits_values(some(task))[0] for task in ("overwrite-axes", "overwrite"))
    assert set(axes.unique().tolist()) == {0.0, 1.0}
    assert float(free.abs().max(-1).values.median()) < 0.95


def hand_set(gate_weights: tuple[float, float], most: float = 2.0) -> StackedNetworks:
    """Return a delta network that hears direction, gate and target: logit = weight * bit + bias, v = value."""
    arm = replace(ARMS["delta"], most=most)
    networks = StackedNetworks(arm, [0]).double()
    hidden = arm.hidden_width
    with torch.no_grad():
        for parameter in networks.parameters():
            parameter.zero_()
        for row in range(WIDTH):
            networks.bias[0, 0, row] = 1.0  # silu(1) times the direction: its length does not matter
            networks.from_instruction[0, row, hidden + row] = 1.0
            networks.out[0, row, row] = 1.0
        networks.from_instruction[0, WIDTH, 2 * hidden] = gate_weights[0]
        networks.bias[0, 0, 2 * hidden] = gate_weights[1]
        networks.from_instruction[0, WIDTH + 1, 2 * hidden + 1] = 1.0
    return networks


KEEP_OR_REFLECT, KEEP_OR_OVERWRITE = (80.0, -40.0), (40.0, -40.0)


@pytest.mark.parametrize(
    ("task", "gate", "on"),
    [
        ("flip", KEEP_OR_REFLECT, 2.0),
        ("rotate", KEEP_OR_REFLECT, 2.0),
        ("overwrite", KEEP_OR_OVERWRITE, 1.0),
        ("overwrite-axes", KEEP_OR_OVERWRITE, 1.0),
        ("flip-last", KEEP_OR_REFLECT, 2.0),
    ],
)
def test_a_delta_network_set_by_hand_solves_every_task_at_every_depth(
    task: str, gate: tuple[float, float], on: float
) -> None:
    episodes = Episodes(*(part.double().unsqueeze(0) for part in some(task)))
    seen = hand_set(gate)(episodes.states[:, :, 0], episodes.instructions)
    # The guard leaves |k|^2 short of 1 by eps^2 / |raw|^2 = 2e-10; the truth is drawn in float32.
    torch.testing.assert_close(seen.states, episodes.states, atol=5e-6, rtol=0)
    torch.testing.assert_close(seen.gates, on * episodes.instructions[..., WIDTH])


def test_the_same_weights_with_a_gate_below_one_erase_instead_of_flipping() -> None:
    episodes = Episodes(*(part.double().unsqueeze(0) for part in some("flip")))
    seen = hand_set(KEEP_OR_REFLECT, most=1.0)(episodes.states[:, :, 0], episodes.instructions)
    along = torch.einsum("rnld,rnd->rnl", seen.states, episodes.probe)
    flipped = episodes.instructions[..., WIDTH].cumsum(-1) > 0
    assert float(along[..., 1:][flipped].detach().abs().max()) < 1e-6


def test_fair_arms_have_equal_parameters_within_one_percent() -> None:
    counts = {
        name: StackedNetworks(arm, [0]).parameters_each()
        for name, arm in ARMS.items()
        if not arm.extra or name == "additive-long"
    }
    assert {"delta", "delta-erase", "write-only", "additive", "highway"} < set(counts)
    assert max(counts.values()) <= 1.01 * min(counts.values()), counts
    wide = StackedNetworks(ARMS["additive-wide"], [0]).parameters_each()
    assert wide == pytest.approx(4 * counts["additive"], rel=0.01)


@pytest.mark.parametrize("arm", ARMS)
def test_networks_side_by_side_do_not_touch_each_other(arm: str) -> None:
    episodes = some("overwrite")
    together = StackedNetworks(ARMS[arm], [0, 1, 2])
    alone = StackedNetworks(ARMS[arm], [1])
    first, told = episodes.states[:, 0], episodes.instructions
    of_three = together(first.repeat(3, 1, 1), told.repeat(3, 1, 1, 1)).states
    torch.testing.assert_close(of_three[1:2], alone(first.unsqueeze(0), told.unsqueeze(0)).states)
    of_three[1].square().sum().backward()
    for parameter in together.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].any()
        assert not parameter.grad[[0, 2]].any()


@pytest.mark.parametrize(("arm", "most"), [("delta", 2.0), ("delta-erase", 1.0), ("highway", 1.0)])
def test_gates_stay_in_their_range_and_reach_for_its_ends(arm: str, most: float) -> None:
    networks = StackedNetworks(ARMS[arm], [0])
    with torch.no_grad():
        networks.from_instruction.mul_(30)
        episodes = some("overwrite")
        gates = networks(episodes.states[None, :, 0], episodes.instructions.unsqueeze(0)).gates
    assert 0 <= float(gates.min()) < 0.3 * most
    assert 0.7 * most < float(gates.max()) <= most


def test_rules_do_what_their_names_say() -> None:
    state, told = some("flip").states[None, :, 0], some("flip").instructions[None, :, :1]
    moved = {}
    for name, arm in ARMS.items():
        networks = StackedNetworks(arm, [0])
        with torch.no_grad():
            for parameter in networks.parameters():
                parameter.zero_()
            networks.out_bias[...] = torch.tensor([3.0, 0.0, 0.0, 0.0])
        moved[name] = (networks(state, told).states[:, :, 1] - state)[0]
    # With zero logits all gates stand in the middle; the output is (3, 0, 0, 0), the target 0.
    first = torch.tensor([1.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(moved["additive"], (3 * first).expand(40, WIDTH))
    torch.testing.assert_close(moved["delta"], -first * state[0])
    torch.testing.assert_close(moved["delta-erase"], -0.5 * first * state[0])
    torch.testing.assert_close(moved["highway"], 0.5 * (3 * first - state[0]))
    torch.testing.assert_close(moved["write-only"], torch.zeros(40, WIDTH))


def test_a_run_is_a_function_of_its_seed() -> None:
    job = Job("flip", "delta")
    once, again = run_job(job, TINY), run_job(job, TINY)
    assert once == again
    assert once["error"][0] != once["error"][1]
    assert [len(errors) for errors in once["error"]] == [TINY.test_layers] * TINY.seeds
    # Other arms are tested on the same episodes.
    assert run_job(Job("flip", "highway"), TINY)["example"]["truth"] == once["example"]["truth"]


def test_processes_change_nothing() -> None:
    jobs = [Job("rotate", "additive"), Job("overwrite", "highway")]
    alone, together = (
        sorted(run_jobs(jobs, TINY, processes), key=lambda result: str(result["task"])) for processes in (1, 2)
    )
    assert alone == together


def test_learning_rates_do_not_mix() -> None:
    plan = replace(TINY, learning_rates=(0.03, 1e-9))
    networks = StackedNetworks(ARMS["additive"], [0, 1])
    fast, still = train(TASKS["flip"], networks, plan)
    for name, start in networks.named_parameters():
        torch.testing.assert_close(still[name], start, atol=1e-7, rtol=0)
        assert not torch.allclose(fast[name], start, atol=1e-3)


def test_training_lowers_the_error_of_every_fair_arm() -> None:
    plan = replace(TINY, seeds=1, steps=150, batch=32, learning_rates=(0.03,), test_episodes=100)
    for arm in ("delta", "additive", "highway"):
        trained = run_job(Job("overwrite-axes", arm), plan)["error"][0][plan.layers - 1]
        start = run_job(Job("overwrite-axes", arm), replace(plan, steps=1))["error"][0][plan.layers - 1]
        assert trained < 0.3 * start, arm


def test_the_extra_arms_train_longer_or_are_wider_and_stay_out_of_the_controls() -> None:
    jobs = all_jobs()
    assert len(jobs) == len(set(jobs)) == 31
    assert Job("flip", "additive-long") in jobs
    assert Job("flip-last", "additive-long") not in jobs
    assert ARMS["additive-long"].times_steps == 4


def test_verdicts_settle_nothing_that_seeds_disagree_about() -> None:
    low, high = [0.1] * 5, [0.2] * 5
    assert report.verdict(low, high) == "delta lower in 5 of 5"
    assert report.verdict(high, low) == "this arm lower in 5 of 5"
    assert report.verdict([0.1, 0.1, 0.3, 0.1, 0.1], high) == "not settled: delta lower in 4 of 5"
    assert report.verdict(low[:2], high[:2]) == "not settled: delta lower in 2 of 2"


def test_the_command_writes_numbers_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ["--out", str(tmp_path), "--image", str(tmp_path / "new" / "dynamics.png")]
    assert cli.main(["dynamics", "--quick", "--steps", "1", "--seeds", "1", "--jobs", "1", "--quiet", *folder]) == 0
    printed = capsys.readouterr().out
    study = json.loads((tmp_path / "dynamics.json").read_text())
    assert len(study["results"]) == 31
    assert study["plan"]["steps"] == 1
    assert "--quick" in study["about"]["command"]
    assert (tmp_path / "new" / "dynamics.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "new" / "dynamics.png").unlink()
    assert cli.main(["dynamics", "--redraw", *folder]) == 0
    assert report.tables(study["results"], study["plan"]["layers"]) in capsys.readouterr().out
    assert report.tables(study["results"], study["plan"]["layers"]) in printed
    assert (tmp_path / "new" / "dynamics.png").exists()


def test_errors_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["dynamics", "--redraw", "--no-image", "--out", str(tmp_path)]) == 1
    assert "run without --redraw first" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["dynamics", "--seeds", "0"])
    assert "--seeds must be at least 1, got 0" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["dynamics", "--quick", "--out", str(tmp_path)]) == 1
    assert "pip install 'deep-delta-serving[dev]', or add --no-image" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_document_prints_the_numbers_of_the_documented_plan(root: Path) -> None:
    study = json.loads((root / "docs/studies/dynamics.json").read_text(encoding="utf-8"))
    assert study["plan"] == json.loads(json.dumps(asdict(Plan())))
    text = (root / "docs/non_monotonic_dynamics.md").read_text(encoding="utf-8")
    for part in report.tables(study["results"], study["plan"]["layers"]).split("\n\n"):
        assert part in text
    for key in ("date", "machine", "software", "command"):
        assert study["about"][key] in text
