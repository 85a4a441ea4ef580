"""The smaller tensors of a map: gates, shifts, pools, and the sums that are their gradients."""

from torch import Tensor

from blan_layers.kernels.gpu.tiles import accumulator


def planes(pools: str) -> tuple[int, int]:
    """Return which planes of the pools are their means and maxima, -1 for none."""
    names = pools.split(",")
    mean, peak = (names.index(pool) if pool in names else -1 for pool in ("avg", "max"))
    return mean, peak


def dense(factor: Tensor | None) -> Tensor | None:
    """Return a factor without gaps, as the kernels read it."""
    return None if factor is None else factor.contiguous()


def empty_sums(x: Tensor, factor: Tensor | None, share: int, length: int) -> Tensor | None:
    """Return memory for the shares (share, B, length) of the gradient of a factor, if there is one."""
    return None if factor is None else x.new_empty(share, x.shape[0], length, dtype=accumulator(x.dtype))


def summed(shares: Tensor | None, factor: Tensor | None, x: Tensor) -> Tensor:
    """Return the sum of the shares in the layout and dtype of the factor."""
    if shares is None or factor is None:
        return like(None, x)
    return shares.sum(0).to(factor.dtype).view(factor.shape)


def like(factor: Tensor | None, x: Tensor) -> Tensor:
    """Return memory for the gradient of a factor, empty if there is none."""
    return x.new_empty(0) if factor is None else factor.new_empty(factor.shape)
