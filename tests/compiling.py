"""Compiles every kernel that the Triton operations launch, for GPUs that need not be there; run as a script.

A launch is answered by a compilation to machine code for the arguments at hand, so that each kernel is compiled as it
is used. Run without TRITON_INTERPRET; the arguments name the compute capability and the dtype.
"""

import itertools
import sys
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from blan_layers.kernels.gpu import operations, tiles

POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}


def signature_type(value: object) -> str:
    if isinstance(value, Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    assert isinstance(value, int)
    return "i32" if abs(value) < 2**31 else "i64"


def compiler(capability: int, compiled: set[str]) -> Any:
    """Return what stands for ``tiles.launch``."""

    def launch(kernel: Any, programs: int, x: Tensor, *arguments: Any, **constants: Any) -> None:
        assert programs > 0
        precision = tl.float64 if x.dtype == torch.float64 else tl.float32
        given = dict(zip(kernel.arg_names, (x, *arguments), strict=False)) | constants | {"ACC": precision}
        assert list(given) == kernel.arg_names
        fixed = {name: v for name, v in given.items() if v is None or name in constants or name == "ACC" or v is 1}
        types = {name: "constexpr" if name in fixed else signature_type(v) for name, v in given.items()}
        source = ASTSource(kernel, types, {(kernel.arg_names.index(name),): v for name, v in fixed.items()})
        binary = compile_kernel(source, target=GPUTarget("cuda", capability, 32)).asm["cubin"]
        assert len(binary) > 1000
        compiled.add(kernel.__name__)

    return launch
