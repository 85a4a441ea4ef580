"""Compiles every kernel that the Triton operations launch, for a GPU that need not be there; run as a script.

The arguments are the compute capability and the dtype; TRITON_INTERPRET must not be set. A launch is answered by a
compilation to machine code for its arguments, so that a kernel is compiled as it is used. The names are printed.
"""

import sys
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from blan_layers.kernels.gpu import gating, mutual_information, pooling

POINTERS = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}


class Compiler:
    """Stands for ``tiles.launch``."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)
        self.names: set[str] = set()

    def __call__(self, kernel: Any, programs: int, x: Tensor, *arguments: Any, **constants: Any) -> None:
        """Compile a kernel for its arguments, and fill what it would have written."""
        precision = tl.float64 if x.dtype == torch.float64 else tl.float32
        given = dict(zip(kernel.arg_names, (x, *arguments), strict=False)) | constants | {"ACC": precision}
        assert list(given) == kernel.arg_names
        # the launcher makes constants of what is None or 1
        fixed = {n: v for n, v in given.items() if n in (*constants, "ACC") or v is None or (type(v) is int and v == 1)}
        types = {n: "constexpr" if n in fixed else POINTERS[v.dtype] if isinstance(v, Tensor) else "i32"
                 for n, v in given.items()}  # fmt: skip
        aligned = [n for n, v in given.items() if n not in fixed and (isinstance(v, Tensor) or v % 16 == 0)]
        position = kernel.arg_names.index
        source = ASTSource(
            kernel,
            types,
            {(position(n),): v for n, v in fixed.items()},
            {(position(n),): [["tt.divisibility", 16]] for n in aligned},
        )
        assert compile_kernel(source, target=self.target).asm["cubin"]
        self.names.add(kernel.__name__)


def use(x: Tensor) -> None:
    """Call every operation as the modules do: with all that it may be given, and with least."""
    gate, shift, spatial = x[:, :, :1].contiguous(), x[:, :, :1].contiguous(), x[:, :1].contiguous()
    for pools in ("avg,max", "avg"):
        pooled, extremes = pooling.pool_space(x, spatial, pools)
        pooling.pool_space_sums(x, spatial, pooled, extremes, pools)
    for factors in ((gate, shift), (None, None)):
        maps, map_extremes = pooling.pool_channels(x, *factors)
        gating.gate(x, *factors, spatial, x, list(x.shape))
        gating.gate_sums(x, x, *factors, spatial)
        gating.map_gradient(x, x, gate, spatial, maps, map_extremes, *factors, pooled, extremes, None, "avg")
    pooling.pool_channels_sums(x, gate, shift, maps, map_extremes)


def use_loss(local: Tensor, hidden: int) -> None:
    own, w1, w2 = local.new_zeros(2, hidden), local.new_zeros(hidden, local.shape[1]), local.new_zeros(hidden, hidden)
    weights = local.new_zeros(2, local.shape[2], dtype=torch.promote_types(local.dtype, torch.float32))
    for given in (weights, None):
        total, *formed = mutual_information.contrast(
            local, own, own, given, w1, w2, own[0], own[:1], own[0, :1], given is not None
        )
    mutual_information.scale_contrast(total, local, *formed[1:])


def main(capability: str, dtype: str) -> None:
    compiler = Compiler(int(capability))
    for module in (pooling, gating, mutual_information):
        vars(module)["launch"] = compiler
    x = torch.zeros(2, 32, 1024, dtype=getattr(torch, dtype))
    use(x)
    use(x.mT.contiguous().mT)
    use_loss(x[:, :, :64], hidden=64)
    print(*sorted(compiler.names))  # noqa: T201  # what the test reads


if __name__ == "__main__":
    main(*sys.argv[1:])
