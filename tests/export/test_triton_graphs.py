"""The Triton kernels where networks meet them: eager training, compiled graphs, inference, the exporter."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import jaxtyping
import pytest
import torch
from torch import Tensor, fx, nn

from ddl_model.compress_op import ReadingArguments, compress_norm, delta_rewrite_compress_norm
from ddl_model.config import AttentionConfig, LanguageModelConfig, StateConfig
from ddl_model.delta_op import RewriteArguments, RewriteOptions
from ddl_model.language_model import LanguageModel
from tests.export.triton_cases import DEVICE, needs_triton

pytestmark = needs_triton

REWRITES = 2
Graphs = list[fx.GraphModule]


@pytest.fixture(autouse=True)
def _enabled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from export.kernels import triton

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # torch.compile cannot trace the checks
    assert triton.enable()
    yield
    triton.disable()
    torch._dynamo.reset()


class Network(nn.Module):
    """Two sublayers in as few modules as can be, which torch.compile traces although the tests check shapes."""

    def __init__(self, taps: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        d, dv = 6, 3
        shapes = [(1, d), (1,), (dv, d), (dv,), (d, dv) if taps is None else (d, dv, taps), (d,), (d, d)]
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(shape) / 2) for shape in shapes)
        self.taps = taps
        self.to(DEVICE)

    def forward(self, inputs: Tensor) -> Tensor:
        *rewrite, weight, norm_weight, process = self.weights
        state = inputs.unsqueeze(-1) * torch.arange(1.0, 4.0, device=inputs.device)
        history = None if self.taps is None else state[:, : self.taps - 1] * 0.5
        reading = ReadingArguments(weight, norm_weight, 1e-3, history)
        seen = compress_norm(state, reading)
        for _ in range(REWRITES):
            arguments = RewriteArguments(state, seen.context @ process, seen.context, seen.compressed, *rewrite)
            step, seen = delta_rewrite_compress_norm(arguments, reading, RewriteOptions(1e-3, 4.0))
            state = step.new_state
        return seen.context


def inputs() -> Tensor:
    return torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1)).to(DEVICE)


def gradients(model: nn.Module, run: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    run(inputs()).square().mean().backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def compiled(run: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor], Tensor], Graphs]:
    """Return `run` as torch.compile traces and divides it for Inductor, and the graphs that will be in the list."""
    from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
    from torch._dynamo.backends.common import aot_autograd

    graphs: Graphs = []

    def keep(graph: fx.GraphModule, _inputs: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    return torch.compile(run, backend=backend, fullgraph=True), graphs


def calls(graph: fx.GraphModule, name: str) -> int:
    return sum(str(node.target) == f"ddl_triton.{name}.default" for node in graph.graph.nodes)


@pytest.mark.parametrize("compress", ["channel", "token"])
def test_a_language_model_trains_as_with_the_plain_formula(compress: Literal["channel", "token"]) -> None:
    from export.kernels import triton

    model = language_model(StateConfig(value_channels=3, compress=compress, compress_kernel=2))
    found = language_gradients(model)
    triton.disable()
    torch.testing.assert_close(found, language_gradients(model), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("taps", [None, 2])
def test_a_compiled_network_calls_the_kernels_and_computes_the_same(taps: int | None) -> None:
    model = Network(taps)
    eager = gradients(model, model)
    run, graphs = compiled(model)
    torch.testing.assert_close(gradients(model, run), eager, atol=1e-7, rtol=1e-5)
    forward, backward = graphs
    assert (calls(forward, "state"), calls(forward, "narrow")) == (1 + REWRITES, 2 * REWRITES)
    assert (calls(backward, "state_backward"), calls(backward, "narrow_backward")) == (1 + REWRITES, 2 * REWRITES)
    assert calls(backward, "state") == 0


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_inference_calls_the_kernels(context: Callable[[], Any]) -> None:
    model = Network()
    expected = model(inputs()).detach()
    with context():
        run, graphs = compiled(model)
        torch.testing.assert_close(run(inputs()), expected)
        torch.testing.assert_close(model(inputs()), expected)
    assert calls(graphs[0], "state") == 1 + REWRITES


def test_states_can_be_made_again_to_the_last_bit() -> None:
    from export.kernels.triton.recompute import keep_every

    model = Network()
    eager = gradients(model, model)
    kept, again = {}, {}
    for every in (1, 2, 9):
        torch._dynamo.reset()
        run, graphs = compiled(keep_every(model, every))
        found = gradients(model, run)
        assert all(torch.equal(found[name], eager[name]) for name in eager)
        forward, backward = graphs
        saved = forward.graph.output_node().args[0]
        shapes = [tuple(node.meta["val"].shape) for node in saved if isinstance(node, fx.Node)]
        kept[every] = shapes.count((2, 4, 6, 3))
        again[every] = calls(backward, "state")
    assert kept == {1: REWRITES, 2: 1, 9: 1}
    assert again == {1: 0, 2: 1, 9: 2}


def language_model(state: StateConfig) -> LanguageModel:
    torch.manual_seed(0)
    attention = AttentionConfig(heads=1, head_width=6)
    config = LanguageModelConfig(
        vocab_size=11, layers=1, width=6, feedforward_width=8, attention=attention, state=state
    )
    return LanguageModel(config).to(DEVICE)


def ids() -> Tensor:
    return torch.tensor([[1, 7, 3], [2, 2, 9]], device=DEVICE)


def language_gradients(model: LanguageModel) -> dict[str, Tensor]:
    return gradients(model, lambda _: model(ids()))


def test_the_exporter_still_finds_one_node_for_each_operator() -> None:
    model = language_model(StateConfig(value_channels=2)).cpu().eval()
    nodes = [str(node.target) for node in torch.export.export(model, (ids().cpu(),)).graph.nodes]
    assert nodes.count("ddl.delta_rewrite_compress_norm.default") == REWRITES
    assert nodes.count("ddl.compress_norm.default") == 1


def test_kernels_are_found_although_an_operator_was_exported_before() -> None:
    from export.kernels import triton

    triton.disable()
    torch.export.export(Network(), (inputs(),))
    triton.enable()
    run, graphs = compiled(Network())
    run(inputs())
    assert calls(graphs[0], "state") == 1 + REWRITES


def test_the_key_of_compiled_graphs_tells_formulas_and_kernels() -> None:
    from export.kernels import triton

    def parts() -> set[str]:
        return {part.rpartition("-")[0] for part in torch.compiler.config.cache_key_tag.split("+")}

    assert parts() == {"delta_op", "attention_op", "compress_op", "register"}
    triton.disable()
    assert parts() == {"delta_op", "attention_op", "compress_op"}
