"""Shapes alone while a graph is traced, and nothing of it afterwards."""

import threading
from collections.abc import Callable
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

import ddl_model.attention_op
import ddl_model.compress_op  # noqa: F401
from export.ops.shapes import shapes_only

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


def contexts(state: Tensor) -> Tensor:
    context: Tensor = torch.ops.ddl.compress_norm(state, state[0, 0], state[0, 0, :, 0], 1e-5)[1]
    return context


def traced(run: Callable[[Tensor], Tensor], state: Tensor) -> list[str]:
    """Return the operators of `run` as the exporter's tracing sees them."""

    class Module(torch.nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return run(given)

    program = torch.export.export(Module(), (state,)).run_decompositions()
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_the_tracing_thread_sees_shapes_and_others_compute() -> None:
    state = torch.randn(2, 3, 4, 5)
    found: list[Tensor] = []
    with shapes_only():
        assert any("empty" in name for name in traced(contexts, state))
        thread = threading.Thread(target=lambda: found.append(contexts(state)))
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], contexts(state))


def test_afterwards_a_compiled_network_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # torch.compile cannot trace the checks
    state = torch.randn(2, 3, 4, 5)
    with shapes_only():
        traced(contexts, state)
    assert not any("empty" in name for name in traced(contexts, state))

    def keep(graph: Any, _inputs: Any) -> Any:
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    run = torch.compile(contexts, backend=aot_autograd(fw_compiler=keep))
    with torch.inference_mode():
        torch.testing.assert_close(run(state), contexts(state))
