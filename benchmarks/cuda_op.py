"""Call the CUDA kernels on tensors of torch, without ONNX Runtime: the structs of `export/kernels/cpp/delta.h`."""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}

_POINTER, _COUNT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Rewrite(ctypes.Structure):
    _fields_ = (
        ("direction", _POINTER),
        ("context", _POINTER),
        ("target_input", _POINTER),
        ("gate_weight", _POINTER),
        ("gate_bias", _POINTER),
        ("target_weight", _POINTER),
        ("target_bias", _POINTER),
        ("override", _POINTER),
        ("new_state", _POINTER),
        ("beta", _POINTER),
        ("gate_logit", _POINTER),
        ("target", _POINTER),
        ("readout", _POINTER),
        ("direction_norm", _POINTER),
        ("gate_width", _COUNT),
        ("target_width", _COUNT),
        ("override_count", _COUNT),
        ("direction_eps", _FLOAT),
        ("target_scale", _FLOAT),
        ("erases", ctypes.c_bool),
    )


class _Compress(ctypes.Structure):
    _fields_ = (
        ("history", _POINTER),
        ("compress_weight", _POINTER),
        ("norm_weight", _POINTER),
        ("compressed", _POINTER),
        ("next_context", _POINTER),
        ("taps", _COUNT),
        ("norm_eps", _FLOAT),
    )


class _Arguments(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("state", _POINTER),
        ("rows", _COUNT),
        ("tokens", _COUNT),
        ("width", _COUNT),
        ("value_channels", _COUNT),
        ("rewrite", ctypes.POINTER(_Rewrite)),
        ("compress", ctypes.POINTER(_Compress)),
    )


@dataclass(frozen=True)
class Options:
    """The attributes of the ops."""

    direction_eps: float = 1e-6
    target_scale: float = 0.0
    erases: bool = True
    norm_eps: float = 1e-5


class KernelError(Exception):
    """The kernels refused a call; the message is theirs."""


class CudaOps:
    """The kernels of a library that `export/kernels/cpp/cuda_c_api.cc` is part of."""

    def __init__(self, library: Path) -> None:
        """Load the library.

        Raises:
            KernelError: its structs are not those that this file mirrors.
        """
        loaded = ctypes.CDLL(str(library))
        self._run = loaded.ddl_cuda_run
        self._run.restype = ctypes.c_char_p
        self._run.argtypes = [ctypes.POINTER(_Arguments), _POINTER]
        sizes = (ctypes.c_size_t * 3)()
        loaded.ddl_cuda_layout(sizes)
        if list(sizes) != [ctypes.sizeof(struct) for struct in (_Arguments, _Rewrite, _Compress)]:
            raise KernelError(f"{library} has other structs than benchmarks/cuda_op.py: change them together")

    def bind(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], options: Options) -> Callable[[], None]:
        """Return a call that launches the kernel on the current stream (on the CPU: runs the emulated one).

        The names are those of the op with everything (`next_context` is what it compresses to, normed); it rewrites if
        there is a `direction`, and compresses if there is a `compress_weight`. The state is (rows, tokens, d, dv).

        Raises:
            KernelError: by the call, if the kernel cannot be launched.
        """
        tensors = {**inputs, **outputs}
        if any(not tensor.is_contiguous() for tensor in tensors.values()):
            raise KernelError("the kernels take dense tensors")
        arguments, rewrite, compress = _Arguments(), _Rewrite(), _Compress()
        for struct in (arguments, rewrite, compress):
            for name, *_ in struct._fields_:
                if name in tensors:
                    setattr(struct, name, tensors[name].data_ptr())
        state = inputs["state"]
        arguments.type = _TYPES[state.dtype]
        arguments.rows, arguments.tokens, arguments.width, arguments.value_channels = state.shape
        if "direction" in inputs:
            rewrite.gate_width, rewrite.target_width = inputs["context"].shape[-1], inputs["target_input"].shape[-1]
            rewrite.override_count = inputs["override"].numel() // 6 if "override" in inputs else 0
            rewrite.direction_eps, rewrite.target_scale = options.direction_eps, options.target_scale
            rewrite.erases = options.erases
            arguments.rewrite = ctypes.pointer(rewrite)
        if "compress_weight" in inputs:
            weight = inputs["compress_weight"]
            compress.taps = weight.shape[2] if weight.ndim == 3 else 1
            compress.norm_eps = options.norm_eps
            arguments.compress = ctypes.pointer(compress)

        def run() -> None:
            assert tensors  # keeps their memory
            stream = torch.cuda.current_stream().cuda_stream if state.is_cuda else None
            if message := self._run(ctypes.byref(arguments), stream):
                raise KernelError(message.decode())

        return run
