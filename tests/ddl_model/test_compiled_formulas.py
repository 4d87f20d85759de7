"""The caches of torch.compile on disk never answer for a formula that has changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch
from ddl_model import compiled_formulas
from ddl_model.compress_op import LIBRARY

factor = float(sys.argv[1])

def formula(state, weight, norm_weight, norm_eps):
    return state.sum(-1) * factor, state.sum(-1) * factor

LIBRARY.impl("compress_norm", formula, "CompositeImplicitAutograd", allow_override=True)
if sys.argv[2] == "marked":
    compiled_formulas.mark(f"formula-{factor}")
run = torch.compile(lambda state: torch.ops.ddl.compress_norm(state, state[0], state[0, :, 0], 0.1)[0])
with torch.inference_mode():
    print(run(torch.ones(2, 3, 4))[0, 0].item())
"""


def answer(cache: Path, factor: float, mark: str) -> float:
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", PROGRAM, str(factor), mark]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.timeout(600)
def test_a_changed_formula_is_compiled_anew_once_it_marks_the_key(tmp_path: Path) -> None:
    assert [answer(tmp_path, factor, "marked") for factor in (1.0, 2.0)] == [4.0, 8.0]
