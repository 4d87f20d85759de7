"""The authors' numbers, for every variant: logits, loss, gates, directions, targets, states, gradients, decoding.

The golden arrays were computed by the authors' implementation on random weights (`tests/golden/README.md`). A single
wrong detail moves the logits by more than 0.5, a wrong eps of a norm by 2e-4 or more.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from ddl_model import LanguageModel, Observer, load_checkpoint
from ddl_model.authors import untranslate
from ddl_model.checkpoint import CheckpointError
from ddl_model.delta_op import DeltaRewrite
from ddl_model.token_stream import whole_pass

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/case.json"))
DELTA_CASES = [name for name in CASES if name != "additive"]


def close(actual: Tensor, expected: Tensor, what: str = "") -> None:
    torch.testing.assert_close(
        actual, expected.reshape(actual.shape), atol=1e-4, rtol=1e-4, msg=lambda m: f"{what}\n{m}"
    )


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def golden(case: str) -> dict[str, Tensor]:
    return dict(load_file(GOLDEN / case / "golden.safetensors"))


@pytest.fixture(scope="module")
def model(case: str) -> LanguageModel:
    loaded = load_checkpoint(GOLDEN / case)
    assert isinstance(loaded, LanguageModel)
    assert not loaded.training
    return loaded


def test_all_six_variants_are_here() -> None:
    assert CASES == ["additive", "cc", "cc-ec", "tc", "tc-ec", "vdim1"]


def test_logits_and_loss(model: LanguageModel, golden: dict[str, Tensor]) -> None:
    with torch.no_grad():
        logits = model(golden["input_ids"])
    close(logits, golden["logits_full"])
    loss = F.cross_entropy(logits.flatten(0, 1), golden["targets"].flatten(), ignore_index=-1)
    close(loss, golden["loss"])


def test_what_each_rewrite_does(case: str, model: LanguageModel, golden: dict[str, Tensor]) -> None:
    observer = Observer()
    directions: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args: directions.__setitem__(name, (args[1], args[2].compressed))

    hooks = [
        module.residual.register_forward_pre_hook(keep(module.site))
        for block in model.blocks
        for module in (block.attn, block.mlp)
    ]
    with torch.no_grad():
        model(golden["input_ids"], observer=observer)
    for hook in hooks:
        hook.remove()
    assert list(observer.rewrites) == model.sites
    for site, seen in observer.rewrites.items():
        check_rewrite(f"L{site}", golden, seen, *directions[site], model.config.residual.direction_eps)
    assert bool(model.sites) == (case != "additive")


def check_rewrite(
    name: str, golden: dict[str, Tensor], seen: DeltaRewrite, raw: Tensor, compressed: Tensor, eps: float
) -> None:
    k = raw / (raw.square().sum(-1, keepdim=True) + eps**2).sqrt()
    pairs = {
        "beta": seen.beta,
        "k": k,
        "v": seen.target,
        "kTX": seen.readout,
        "k_in_norm": seen.direction_norm,
        "x_in": compressed,
    }
    for quantity, actual in pairs.items():
        close(actual, golden[f"{name}.{quantity}"], f"{name}.{quantity}")


@pytest.mark.parametrize("case", DELTA_CASES, scope="module")
def test_the_final_state(model: LanguageModel, golden: dict[str, Tensor]) -> None:
    stream = whole_pass(golden["input_ids"])
    with torch.no_grad():
        state, read = model.hidden_state(golden["input_ids"], stream)
    close(state, golden["state_final"])
    close(read.compressed, golden["readout"])
    close(read.context, golden["readout_normed"])


def test_gradients(model: LanguageModel, golden: dict[str, Tensor]) -> None:
    model.zero_grad()
    logits = model(golden["input_ids"])
    F.cross_entropy(logits.flatten(0, 1), golden["targets"].flatten(), ignore_index=-1).backward()
    gradients = untranslate({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, model.config)
    expected = {name.removeprefix("grad."): array for name, array in golden.items() if name.startswith("grad.")}
    assert len(expected) > 10
    for name, array in expected.items():
        torch.testing.assert_close(gradients[name], array, atol=5e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}\n{m}")


def test_cached_decoding(model: LanguageModel, golden: dict[str, Tensor]) -> None:
    ids = golden["input_ids"]
    prompt = golden["logits_prefill"].shape[1]
    with torch.no_grad():
        logits, cache = model.step(ids[:, :prompt])
        close(logits, golden["logits_prefill"])
        for position in range(prompt, ids.shape[1]):
            logits, cache = model.step(ids[:, position : position + 1], cache)
            close(logits[:, 0], golden["logits_steps"][:, position - prompt])


def write_as_pickle(case: str, folder: Path, **changes: Tensor | None) -> Path:
    weights = dict(load_file(GOLDEN / case / "model.safetensors"))
    weights |= {name: tensor for name, tensor in changes.items() if tensor is not None}
    for name in [name for name, tensor in changes.items() if tensor is None]:
        del weights[name]
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text((GOLDEN / case / "config.json").read_text())
    return folder


def test_their_pickle_loads_with_and_without_the_tied_head(tmp_path: Path) -> None:
    ids = torch.arange(12).view(2, 6)
    expected = load_checkpoint(GOLDEN / "cc-ec")(ids)
    for number, changes in enumerate(({}, {"lm_head.weight": None})):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert torch.equal(load_checkpoint(write_as_pickle("cc-ec", folder, **changes))(ids), expected)


class Evil:
    """What a hostile pickle does when it is trusted."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('ran code')",))


def test_a_pickle_runs_no_code(tmp_path: Path) -> None:
    torch.save({"transformer.wte.weight": Evil()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text((GOLDEN / "cc" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin cannot be read"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transformer.wte.weight": None}, r"transformer\.wte\.weight is missing"),
        ({"transformer.h.1.attn.c_q.weight": None}, r"the checkpoint lacks transformer\.h\.1\.attn\.c_q\.weight"),
        ({"transformer.h.9.extra": torch.zeros(1)}, r"does not know: transformer\.h\.9\.extra"),
        ({"lm_head.weight": torch.zeros(257, 48)}, "the head must be tied"),
    ],
)
def test_a_checkpoint_that_is_not_theirs_is_refused(
    tmp_path: Path, changes: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write_as_pickle("cc", tmp_path, **changes))


def test_our_own_folder_of_the_same_model_gives_the_same(tmp_path: Path, case: str, model: LanguageModel) -> None:
    config = {"schema": "ddl.checkpoint/1", "model": "language_model", "config": model.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    ids = torch.arange(10).view(2, 5)
    assert torch.equal(load_checkpoint(tmp_path)(ids), model(ids))
