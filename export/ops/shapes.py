"""Our operators while a graph is traced: shapes alone, because their formulas do not become part of the graph.

torch traces what a composite operator is made of several times over, and the exporter then throws it away for the
operator's own node. For a network of many rewrites that is a good part of the time of an export.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ddl_model import attention_op, compress_op, delta_op
from ddl_model.delta import sum_dtype

Kernel = Callable[..., tuple[Tensor, ...]]


def _rewrite(state: Tensor, *others: Any) -> tuple[Tensor, ...]:
    tokens, channels = state.shape[:-2], state.shape[-1:]
    dtype = sum_dtype(state.dtype)
    quantities = tokens, tokens, (*tokens, *channels), (*tokens, *channels), tokens
    return torch.empty_like(state), *(state.new_empty(shape, dtype=dtype) for shape in quantities)


def _read(state: Tensor, *others: Any) -> tuple[Tensor, ...]:
    return state.new_empty(state.shape[:-1]), state.new_empty(state.shape[:-1])


def _rewrite_and_read(state: Tensor, *others: Any) -> tuple[Tensor, ...]:
    new_state, *trace = _rewrite(state)
    return new_state, *_read(state), *trace


def _attention(query: Tensor, key: Tensor, value: Tensor, keys: Tensor, values: Tensor, *others: Any) -> Any:
    return torch.empty_like(query), torch.empty_like(keys), torch.empty_like(values)


_SHAPES: dict[str, tuple[Kernel, Kernel]] = {
    "delta_rewrite": (_rewrite, delta_op.plain_delta_rewrite),
    "compress_norm": (_read, compress_op.plain_compress_norm),
    "token_compress_norm": (_read, compress_op.plain_token_compress_norm),
    "delta_rewrite_compress_norm": (_rewrite_and_read, compress_op.plain_delta_rewrite_compress_norm),
    "delta_rewrite_token_compress_norm": (_rewrite_and_read, compress_op.plain_delta_rewrite_token_compress_norm),
    "cached_attention": (_attention, attention_op.plain_cached_attention),
}


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let this thread see tensors of the right shape where our operators would compute; others see no difference."""
    tracing = threading.get_ident()

    def here_only(shapes: Kernel, formula: Kernel) -> Kernel:
        return lambda *arguments: (shapes if threading.get_ident() == tracing else formula)(*arguments)

    # Not `torch.library.impl`: torch's Python dispatcher goes on using an implementation after its library is gone.
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    operators = {name: getattr(torch.ops.ddl, name).default for name in _SHAPES}
    for name, operator in operators.items():
        operator.py_impl(key)(here_only(*_SHAPES[name]))
    try:
        yield
    finally:
        for operator in operators.values():
            operator.py_kernels.pop(key, None)
            operator._dispatch_cache.clear()
