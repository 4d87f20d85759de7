"""A run that is killed at any moment loses no checkpoint; one that is asked to stop loses nothing."""

import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

from ddl_model.checkpoint import checkpoint_folders, read_checkpoint
from ddl_model.training.loop import train
from ddl_model.training.open_task import open_task
from ddl_model.training.overrides import override
from ddl_model.training.recipes import text_tiny
from tests.ddl_model.training.commands import ENVIRONMENT, ROOT, run, training, training_settings

STEPS = "80"
KILLS = 3


def start(command: list[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def newest(folder: Path) -> int:
    """Return the step of the newest checkpoint, -1 where there is none."""
    folders = checkpoint_folders(folder)
    return int(folders[-1].name.removeprefix("step-")) if folders else -1


@pytest.mark.timeout(600)
def test_killed_at_random_moments_a_run_ends_as_if_it_had_not_been(tokens: Path, tmp_path: Path) -> None:
    # A checkpoint at every step, so that many of the moments are within one.
    settings = {"steps": STEPS, "save_every": "1", "evaluate_every": "20"}
    moment, reached = random.Random(0), -1
    for _ in range(KILLS):
        resume = ["--resume"] if reached >= 0 else []
        with start(training(tokens, tmp_path / "killed", "--quiet", *resume, **settings)) as process:
            limit = time.monotonic() + 60
            while newest(tmp_path / "killed") <= reached and time.monotonic() < limit:
                time.sleep(0.01)
            time.sleep(moment.uniform(0, 0.5))
            process.kill()
        assert process.returncode == -signal.SIGKILL, process.returncode
        now = read_checkpoint(tmp_path / "killed").training["step"]
        assert now > reached
        reached = now
    assert reached < int(STEPS), "the run ended before it was killed: give it more steps"
    done = run(training(tokens, tmp_path / "killed", "--quiet", "--resume", **settings))
    assert done.returncode == 0, done.stderr
    fields = training_settings(settings | {"save_every": "0"})
    config = override(text_tiny(), [f"{name}={value}" for name, value in fields.items()])
    train(config, open_task(config, tokens), tmp_path / "whole", show_progress=False)
    first, second = read_checkpoint(tmp_path / "killed"), read_checkpoint(tmp_path / "whole")
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in second.weights)
    assert first.training["test"] == second.training["test"]
    kept = ("step", "train_loss", "validation_loss", "gate_means")
    curves = [[[row[key] for key in kept] for row in c.training["curve"]] for c in (first, second)]
    assert curves[0] == curves[1]


def test_ctrl_c_loses_nothing_and_resume_finishes(tokens: Path, tmp_path: Path) -> None:
    command = training(tokens, tmp_path, steps="200", evaluate_every="200")
    with start(command) as process:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        assert process.stderr is not None
        seen = ""
        while not re.search(r" [1-9]\d?/200", seen):  # the bar has passed some steps
            piece = process.stderr.read(1)
            assert piece, seen
            seen += piece
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=60)
        watchdog.cancel()
    assert process.returncode == 130
    assert "Continue with the same command and --resume" in out
    assert re.search(r"loss=\d\.\d+, [\d,]+ tokens/s", seen + rest)
    stopped = read_checkpoint(tmp_path).training
    assert 0 < stopped["step"] < stopped["steps"]
    done = run([*command, "--resume", "--quiet"])
    assert done.returncode == 0, done.stderr
    assert "Held-out perplexity" in done.stdout
    finished = read_checkpoint(tmp_path).training
    assert finished["step"] == finished["steps"] == 200
    assert finished["config"] == stopped["config"]
