"""While a graph is traced our operators give shapes and types alone, in that thread, and numbers again afterwards."""

import threading
import warnings
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher

from export.ops.shapes import shapes_only

ROWS, TOKENS, WIDTH, CHANNELS, TAPS, SLOTS = 2, 3, 5, 4, 3, 7


def arguments(dtype: torch.dtype) -> dict[str, tuple[Any, ...]]:
    """Return arguments of every operator."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype)

    per_token = (ROWS, TOKENS, WIDTH)
    state, history = random(*per_token, CHANNELS), random(ROWS, TAPS - 1, WIDTH, CHANNELS)
    gate = random(1, WIDTH), random(1), random(CHANNELS, WIDTH), random(CHANNELS)
    rewrite = (state, *(random(*per_token) for _ in range(3)), *gate)
    weight, taps, norm = random(WIDTH, CHANNELS), random(WIDTH, CHANNELS, TAPS), random(WIDTH)
    heads, cache = (random(ROWS, TOKENS, 2, 8) for _ in range(3)), (random(ROWS, 2, SLOTS, 8) for _ in range(2))
    override = torch.tensor([[[0.0, 1.0, 0.0, 2.0, 1.0, 1.0]]])
    return {
        "delta_rewrite": (*rewrite, 1e-5, 0.0, True, override),
        "compress_norm": (state, weight, norm, 1e-5),
        "token_compress_norm": (state, history, taps, norm, 1e-5),
        "delta_rewrite_compress_norm": (*rewrite, weight, norm, 1e-5, 0.0, True, None, 1e-5),
        "delta_rewrite_token_compress_norm": (*rewrite, history, taps, norm, 1e-5, 0.0, True, None, 1e-5),
        "cached_attention": (*heads, *cache, torch.arange(TOKENS).expand(ROWS, TOKENS)),
    }


def call(name: str, given: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Run an operator."""
    found: tuple[Tensor, ...] = getattr(torch.ops.ddl, name)(*given)
    return found


def computing(name: str, given: tuple[Any, ...], found: list[tuple[Tensor, ...]]) -> None:
    with enable_python_dispatcher():
        found.append(call(name, given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("name", arguments(torch.float32))
def test_shapes_and_types_are_those_of_the_formulas(name: str, dtype: torch.dtype) -> None:
    given = arguments(dtype)[name]
    computed = call(name, given)
    with shapes_only():
        with enable_python_dispatcher():  # as the exporter's tracing does
            traced = call(name, tuple(x.to("meta") if isinstance(x, Tensor) else x for x in given))
        elsewhere: list[tuple[Tensor, ...]] = []
        thread = threading.Thread(target=computing, args=(name, given, elsewhere))
        thread.start()
        thread.join()
    assert [(t.shape, t.dtype) for t in traced] == [(t.shape, t.dtype) for t in computed]
    for after in (*elsewhere, call(name, given)):
        for tensor, expected in zip(after, computed, strict=True):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_an_error_inside_leaves_the_formulas_in_place() -> None:
    given = arguments(torch.float32)["compress_norm"]
    computed = call("compress_norm", given)
    with pytest.raises(ZeroDivisionError), shapes_only():
        raise ZeroDivisionError
    with enable_python_dispatcher():
        assert torch.equal(call("compress_norm", given)[1], computed[1])


def test_a_network_compiled_after_an_export_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    def contexts(state: Tensor) -> Tensor:
        context: Tensor = torch.ops.ddl.compress_norm(state, state[0, 0], state[0, 0, :, 0], 1e-5)[1]
        return context

    class Module(torch.nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return contexts(state)

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # torch.compile cannot trace the checks
    state = torch.randn(2, 3, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        with shapes_only():
            torch.export.export(Module(), (state,)).run_decompositions()
        torch._dynamo.reset()
        backend = aot_autograd(fw_compiler=lambda graph, _inputs: make_boxed_func(graph.forward))
        with torch.inference_mode():
            torch.testing.assert_close(torch.compile(contexts, backend=backend)(state), contexts(state))
