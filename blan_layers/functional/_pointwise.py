"""1x1 convolutions as products."""

from torch import Tensor

from blan_layers.kernels.choice import against_blocks
from blan_layers.kernels.cpu import products


def product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return the 1x1 convolution of a map as a product, or None if a convolution is faster or must run."""
    return None if against_blocks(x, weight, bias) else products.pointwise(x, weight, bias)
