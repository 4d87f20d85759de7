"""Bundles of language models: two graphs over one file of weights, described so that the manifest alone runs them."""

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from ddl_model import AttentionConfig, ResidualConfig, StateConfig, load_checkpoint
from export.__main__ import main
from export.golden import read_steps
from export.graph import QUANTITIES
from export.kind import STEP
from export.language.bundle import LanguageBundle
from export.pipeline import ExportError, export_bundle
from export.source import open_checkpoint
from export.trace import ExportedGraph
from export.verify import PLAIN, differences, walk
from service.bundle import LanguageModelling, Manifest, StepGraph, read_bundle, write_checksums
from service.errors import BundleError, BundleInvalid
from service.repository import Options, Repository
from service.repository.opening import Device
from service.runtime.golden import replay
from service.runtime.kernel_library import KernelChoice, choose_kernel
from service.runtime.session import CPU, OrtSession, check_graph
from tests.export.text_checkpoint import CONFIG, VOCABULARY, save_text_checkpoint
from tests.service.tiny_bundle import BundleMaker


@pytest.fixture
def copied(text_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may change."""
    return Path(shutil.copytree(text_bundle, tmp_path / "models" / "words" / "1"))


@pytest.fixture(params=["plain body", "kernel"])
def kernel(request: pytest.FixtureRequest, text_bundle: Path) -> KernelChoice:
    if request.param == "plain body":
        return PLAIN
    library = request.getfixturevalue("kernel_library")
    return choose_kernel(str(library), read_bundle(text_bundle).manifest.graph.custom_ops, CPU)


def task_of(bundle: Path) -> LanguageModelling:
    task = read_bundle(bundle).manifest.task
    assert isinstance(task, LanguageModelling)
    return task


def step_of(bundle: Path) -> StepGraph:
    step = task_of(bundle).step
    assert step is not None
    return step


def open_graph(bundle: Path, name: str, kernel: KernelChoice = PLAIN) -> OrtSession:
    file = bundle / read_bundle(bundle).manifest.graphs[name].file
    session = OrtSession(file, providers=[CPU], threads=1, kernel=kernel)
    assert session.kernel.path == kernel.path
    return session


class Decoder:
    """Continues texts by nothing but the manifest and the session."""

    def __init__(self, bundle: Path, rows: int, slots: int, kernel: KernelChoice) -> None:
        self.step = step_of(bundle)
        self.session = open_graph(bundle, STEP, kernel)
        self.lengths = np.zeros(rows, np.int64)
        self.cache = {
            tensor.past: np.zeros((rows, *(slots if size == -1 else size for size in tensor.shape)), np.float32)
            for tensor in self.step.cache
        }

    def __call__(self, ids: np.ndarray, counts: list[int]) -> np.ndarray:
        """Take new tokens and return the logits after each row's last."""
        step, columns = self.step, ids.shape[1]
        wanted = [row * columns + max(0, count - 1) for row, count in enumerate(counts)]
        small = {step.tokens: ids, step.lengths: self.lengths, step.counts: counts, step.wanted: wanted}
        feeds = {name: np.asarray(array, np.int64) for name, array in small.items()} | self.cache
        outputs = self.session.run(feeds, [step.logits, *(tensor.present for tensor in step.cache)])
        self.cache = {tensor.past: outputs[tensor.present] for tensor in step.cache}
        self.lengths = self.lengths + counts
        return outputs[step.logits]


def test_rows_decoded_by_the_manifest_are_torchs(
    text_bundle: Path, text_checkpoint: Path, kernel: KernelChoice
) -> None:
    """Rows of different length are begun together and continued greedily, as torch does over the whole texts."""
    model = load_checkpoint(text_checkpoint)
    prompts = [[5, 17, 200, 3, 44], [9], [101, 7, 7]]
    counts = [len(prompt) for prompt in prompts]
    decoder = Decoder(text_bundle, rows=3, slots=16, kernel=kernel)
    ids = np.zeros((3, max(counts)), np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
    logits = decoder(ids, counts)
    for _ in range(6):
        for row, text in enumerate(prompts):
            with torch.no_grad():
                expected = model(torch.tensor([text]))[0, -1]
            torch.testing.assert_close(torch.from_numpy(logits[row]), expected, atol=1e-5, rtol=1e-5)
            text.append(int(expected.argmax()))
        logits = decoder(np.array([[text[-1]] for text in prompts]), [1, 1, 1])


def test_gates_of_both_graphs_have_the_same_names(text_bundle: Path) -> None:
    manifest = read_bundle(text_bundle).manifest
    assert manifest.gates is not None
    assert manifest.gates.positions.kind == "token"
    named = {name for names in manifest.gates.outputs.values() for name in names}
    for graph in manifest.graphs.values():
        assert named < {spec.name for spec in graph.outputs}
        declared = {value.name for value in onnx.load(text_bundle / graph.file, load_external_data=False).graph.input}
        assert set(manifest.gates.overrides) < declared


def test_the_manifest_describes_the_model(text_bundle: Path) -> None:
    manifest, task, step = read_bundle(text_bundle).manifest, task_of(text_bundle), step_of(text_bundle)
    assert (task.vocabulary, task.context, task.tokenizer) == (VOCABULARY, 24, "tokenizer.json")
    assert [(tensor.past, tensor.present, tensor.in_place, tensor.datatype) for tensor in step.cache] == [
        ("past/keys/0.attn", "present/keys/0.attn", True, "FP32"),
        ("past/values/0.attn", "present/values/0.attn", True, "FP32"),
        ("past/histories/expand", "present/histories/expand", False, "FP32"),
    ]
    assert step.cache[0].shape == (2, -1, 8)
    assert manifest.metrics["test_bits_per_byte"] == 1.5
    assert manifest.precision is None
    for name, graph in manifest.graphs.items():
        check_graph(open_graph(text_bundle, name), graph, Path(graph.file))


def test_files_are_complete_checked_and_readable_by_everyone(text_bundle: Path) -> None:
    names = {path.relative_to(text_bundle).as_posix() for path in text_bundle.rglob("*") if path.is_file()}
    assert names == {
        "manifest.json",
        "graphs/model.onnx",
        "graphs/step.onnx",
        "graphs/weights.bin",
        "head.safetensors",
        "golden/samples.safetensors",
        "golden/step.safetensors",
        "tokenizer.json",
        "PARITY.md",
        "MODEL_CARD.md",
        "SHA256SUMS",
    }
    assert all((text_bundle / name).stat().st_mode & 0o044 == 0o044 for name in names)
    assert set(read_bundle(text_bundle).manifest.files) == names - {
        "manifest.json",
        "PARITY.md",
        "MODEL_CARD.md",
        "SHA256SUMS",
    }
    parity = (text_bundle / "PARITY.md").read_text()
    assert "| logits |" in parity
    assert "| step: beta |" in parity
    assert "All agree." in parity
    card = (text_bundle / "MODEL_CARD.md").read_text()
    assert "- Vocabulary: 270 tokens, trained on texts of 24 tokens\n" in card
    assert "- Data: words, 1,000 training tokens" in card
    assert "| 0.5 | 2.0000 | 2.5000 | 0.5000 |" in card


def test_a_changed_weight_is_noticed(copied: Path) -> None:
    weights = copied / "graphs" / "weights.bin"
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin has SHA-256"):
        read_bundle(copied)


def test_golden_samples_and_steps_replay(text_bundle: Path, kernel: KernelChoice) -> None:
    bundle, step = read_bundle(text_bundle), step_of(text_bundle)
    assert replay(open_graph(text_bundle, "model", kernel), bundle.golden_path, bundle.manifest.golden) < 1e-5
    script = read_steps(text_bundle, step)
    assert len(script.runs) == step.golden.steps
    answers = {STEP: [outputs for _, outputs in walk(open_graph(text_bundle, STEP, kernel), script)]}
    found = differences(answers, {STEP: script})
    assert set(found) == {f"step: {kind}" for kind in ("logits", *QUANTITIES)}
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize("graph", ["model", "step"])
def test_a_graph_that_disagrees_is_refused_and_nothing_is_left(
    text_checkpoint: Path, traced: dict[str, ExportedGraph], graph: str, tmp_path: Path
) -> None:
    """One weight of one graph is another than torch's: the report tells which graph it is."""
    weight = traced[graph].model.graph.initializers["model.final_norm.weight"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.001), name=weight.name)
    with pytest.raises(ExportError, match="does not give torch") as caught:
        export_bundle(text_checkpoint, tmp_path / "models" / "wrong" / "1")
    rows = [line.strip("| ").split(" | ") for line in str(caught.value).splitlines() if "e-0" in line]
    differing = {row[0] for row in rows if len(row) > 1 and float(row[1]) > 1e-5}
    assert differing == {"logits"} if graph == "model" else differing == {"step: logits"}
    assert not list((tmp_path / "models" / "wrong").iterdir())


def test_the_command_line_explains_both_graphs(text_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--explain", str(text_bundle), "--library", "off"]) == 0
    shown = capsys.readouterr().out
    assert "graphs/model.onnx runs here" in shown
    assert "one run of the 3 golden samples" in shown
    assert "graphs/step.onnx runs here" in shown
    assert "a step of 3 rows, one token each" in shown
    assert shown.count("| DeltaRewriteCompressNorm | 0.attn, 0.mlp | plain |") == 2


NO_STEP = "attention.head_width must be a multiple of 8 to decode with a cache, got 12"


def test_a_model_that_cannot_decode_becomes_a_bundle_that_scores(tmp_path: Path) -> None:
    config = replace(
        CONFIG,
        attention=AttentionConfig(heads=1, head_width=12),
        residual=ResidualConfig(rule="additive"),
        state=StateConfig(value_channels=1),
    )
    save_text_checkpoint(tmp_path / "run", config)
    said: list[str] = []
    assert export_bundle(tmp_path / "run", tmp_path / "models" / "words" / "1", say=said.append).agrees
    assert said[1].endswith("score texts and not continue them: " + NO_STEP)
    bundle = tmp_path / "models" / "words" / "1"
    assert task_of(bundle).step is None
    assert list(read_bundle(bundle).manifest.graphs) == ["model"]
    assert f"- Decoding: {NO_STEP}" in (bundle / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "tokenizer.json is no tokenizer"),
        ("larger", "tokenizer.json has a token 269, the model's vocabulary ends at 259"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    parts = {"tokenizer": content} if content == "{}" else {}
    save_text_checkpoint(tmp_path / "run", replace(CONFIG, vocab_size=260), **parts)
    with pytest.raises(ExportError, match=reason):
        export_bundle(tmp_path / "run", tmp_path / "models" / "words" / "1")
    assert not (tmp_path / "models").exists()


def test_checkpoints_of_the_authors_are_opened_with_a_tokenizer_beside_them(
    root: Path, text_checkpoint: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(root / "tests" / "golden" / "cc-ec", tmp_path / "authors"))
    kind, sha256 = open_checkpoint(folder)
    assert isinstance(kind, LanguageBundle)
    assert kind.context is None
    assert kind.files() == {}
    assert len(sha256) == 64
    assert [next(iter(run.outputs)) for script in kind.scripts().values() for run in script.runs] == ["logits"] * 4
    shutil.copy(text_checkpoint / "tokenizer.json", folder)
    with pytest.raises(ExportError, match="has a token 269, the model's vocabulary ends at 256"):
        open_checkpoint(folder)


def test_the_service_serves_it_beside_others(copied: Path) -> None:
    BundleMaker().write(copied.parents[1])
    repository = Repository(copied.parents[1], Options(device=Device(kernel_library="off")))

    async def loaded() -> list[str]:
        await repository.start()
        try:
            return [repository.get(name).manifest.task.kind for name in ("tiny", "words")]
        finally:
            await repository.stop()

    assert asyncio.run(loaded()) == ["image-classification", "language-model"]


def change_step(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    return lambda manifest: change(manifest["task"]["step"])


def set_spec(kind: str, index: int, **values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda step: step["graph"][kind][index].update(values)


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "another task": (lambda m: m["task"].update(kind="speech"), "task: .* 'image-classification', 'language-model'"),
    "tokens": (lambda m: m["task"].update(tokens="ids"), "task.tokens 'ids' is no input of the graph"),
    "vocabulary": (lambda m: m["task"].update(vocabulary=9), r"'logits' must be FP32 of shape \[-1, -1, 9\]"),
    "no context": (lambda m: m["task"].update(context=0), "task.language-model.context: "),
    "two inputs": (
        lambda m: m["graph"]["inputs"].append({"name": "x", "datatype": "INT64", "shape": [-1]}),
        "the graph of whole texts has one input, 'input_ids'",
    ),
    "missing in step": (
        change_step(lambda s: s.update(lengths="past_lengths")),
        "task.step.lengths 'past_lengths' is no",
    ),
    "datatype in step": (change_step(set_spec("inputs", 1, datatype="FP32")), "'lengths' must be INT64 of shape"),
    "cache of another shape": (
        change_step(lambda s: s["cache"][0].update(shape=[3, -1, 8])),
        r"'past/keys/0.attn' must be FP32 of shape \[-1, 3, -1, 8\], got FP32 \[-1, 2, -1, 8\]",
    ),
    "undescribed cache": (
        change_step(lambda s: s["cache"].pop()),
        "input 'past/histories/expand' of the step graph is not",
    ),
    "no cache": (change_step(lambda s: s["cache"].clear()), "at least 1 item"),
    "in place without slots": (change_step(lambda s: s["cache"][2].update(in_place=True)), "has no slots"),
    "two axes of slots": (change_step(lambda s: s["cache"][0].update(shape=[-1, -1, 8])), "one axis can be slots"),
    "a size of zero": (change_step(lambda s: s["cache"][0].update(shape=[0, -1, 8])), "sizes are above 0"),
    "gates of step": (change_step(set_spec("outputs", -1, name="gates/x")), "which is no output of the graph"),
    "steps of golden": (change_step(lambda s: s["golden"].update(slots=0)), "golden.slots: "),
    "weights not listed": (lambda m: m["graph"].update(weights=["graphs/other.bin"]), "graphs/other.bin is not listed"),
    "tokenizer not listed": (lambda m: m["task"].update(tokenizer="other.json"), "other.json is not listed"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_manifest_that_does_not_fit_is_refused(case: str, copied: Path) -> None:
    change, reason = BROKEN[case]
    path = copied / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    write_checksums(copied)
    with pytest.raises(BundleInvalid, match=reason):
        read_bundle(copied)


def test_bundles_of_before_still_load(root: Path) -> None:
    content = json.loads((root / "models" / "fashion-mnist" / "1" / "manifest.json").read_text())
    del content["precision"], content["graph"]["weights"], content["gates"]["depth"], content["gates"]["overrides"]
    manifest = Manifest.model_validate(content)
    assert manifest.gates is not None
    assert manifest.gates.overrides == ()
    assert manifest.classification.labels[-1] == "Ankle boot"
    assert list(manifest.graphs) == ["model"]
