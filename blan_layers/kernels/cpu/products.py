"""Products of many rows, or of a map, with a matrix on the CPU, by the faster of torch's two libraries.

``torch.mm`` goes to MKL, convolutions go to oneDNN. On Intel processors both run at full speed. On AMD processors with
AVX-512, MKL uses only AVX2, at half the speed. There, a product is computed as a 1x1 convolution of a channels-last
view of the rows, without a copy. The rule depends on processor and dtype, never on timings, so that equal settings give
equal bits.
"""

import platform
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from blan_layers._torch import rounds_float32

CPUINFO = Path("/proc/cpuinfo")

_BY_PRODUCTS: Callable[..., Tensor] | None = getattr(torch._C._nn, "thnn_conv2d", None)

IMAGES = 16
"""Images that rows are viewed as. With fewer, torch passes single-threaded 1x1 convolutions to MKL again."""

MANY_ROWS = 1024
"""Below this, preparing a convolution takes longer than its product saves."""

MANY_ELEMENTS = 2**14
"""Elements of a map below which the choice takes longer than it saves."""

FEW_OUTPUTS = 16
"""Outputs up to which reading the map, not arithmetic, takes the time of a 1x1 convolution."""


def convolves(rows: Tensor) -> bool:
    """Return whether the faster product of these rows is a convolution."""
    if rows.dtype is not torch.float32 or len(rows) < MANY_ROWS or not _halves_mkl() or rounds_float32():
        return False
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None, *, out: Tensor) -> Tensor:
    """Return ``rows weight^T + bias``, (N, C) and (M, C) -> (N, M), in ``out`` or in memory of its own."""
    if convolves(rows):
        return F.conv2d(_as_map(rows), weight[:, :, None, None], bias).permute(0, 2, 3, 1).reshape(out.shape)
    if bias is None:
        return torch.mm(rows, weight.t(), out=out)
    return torch.addmm(bias, rows, weight.t(), out=out)


def arranged(weight: Tensor, rows: Tensor) -> Tensor:
    """Return the weight in the layout in which :func:`linear` multiplies many such rows by it without a copy each time.

    MKL multiplies by a transposed matrix as fast as by a contiguous one; a convolution copies it first.
    """
    return weight.contiguous() if convolves(rows) else weight


def add_weight_gradient(target: Tensor, gradient: Tensor, rows: Tensor, anew: bool) -> None:
    """Add ``gradient^T rows``, (N, M) and (N, C), to ``target`` (M, C), or overwrite it if ``anew``."""
    if not convolves(rows):
        target.addmm_(gradient.t(), rows, beta=0 if anew else 1)
        return
    found = conv2d_weight(_as_map(rows), (*target.shape, 1, 1), _as_map(gradient)).view(target.shape)
    if anew:
        target.copy_(found)
    else:
        target += found


def multiplies(x: Tensor, weight: Tensor) -> bool:
    """Return whether :func:`pointwise` is a faster 1x1 convolution of a map than torch's choice.

    torch chooses oneDNN in float32, with one thread only from :data:`IMAGES` images on. oneDNN copies a map beforehand,
    unless it is channels-last, and multiplies images of few locations together.
    """
    if x.dtype is not torch.float32 or (torch.get_num_threads() == 1 and len(x) < IMAGES):
        return False
    locations = x.shape[2:].numel()
    most = min(FEW_OUTPUTS, locations) if _halves_mkl() else locations
    if x.numel() < MANY_ELEMENTS or len(weight) > most or _BY_PRODUCTS is None:
        return False
    libraries = torch.backends.mkldnn.enabled and torch.backends.mkl.is_available()
    return bool(libraries) and x.is_contiguous() and not rounds_float32()


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the 1x1 convolution of a contiguous map as MKL's products, (B, C, *S), (O, C, 1, ...), (O,) -> (B, O, *S).

    This is torch's own convolution without oneDNN, with the same gradients and saved tensors. Strides of channels-last
    in one of map and weight count for both there, and the gradient is then wrong: here, neither has such strides.
    """
    space = x.shape[2:]
    if x.ndim != 4 or x.is_contiguous(memory_format=torch.channels_last):
        x = x.flatten(2).unsqueeze(2)
    weight = weight.flatten(1)[:, :, None, None]
    y: Tensor = _BY_PRODUCTS(x, weight, (1, 1), bias, (1, 1), (0, 0))  # type: ignore[misc]  # multiplies() asked for it
    return y if y.shape[2:] == space else y.view(*y.shape[:2], *space)


def _as_map(rows: Tensor) -> Tensor:
    """View rows (N, C) as a channels-last map (B, C, 1, N / B)."""
    images = IMAGES if len(rows) % IMAGES == 0 else 1
    return rows.view(images, 1, len(rows) // images, -1).permute(0, 3, 1, 2)


@lru_cache(maxsize=1)
def _halves_mkl() -> bool:
    """Return whether MKL uses only half of each register: on AMD processors with AVX-512."""
    if not torch.backends.mkl.is_available() or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        described = CPUINFO.read_text()
    except OSError:  # not Linux
        described = platform.processor()
    return "AuthenticAMD" in described
