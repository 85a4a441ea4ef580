"""The operations on the large map of the attention gates, and the way through them.

Maps are (B, C, N) with any strides, channel gates and shifts (B, C, 1), spatial gates (B, 1, N). Everything is computed
in float32, or float64 for itself, and stored in the map's dtype. What each operation moves, in maps, smaller tensors
aside (pools of the smaller tensors cost the share of them in the map):

==================== ==================================================================
pool_space           reads x
pool_channels        reads x
gate                 reads x and the residual, writes the output
gate_sums            reads x and the output's gradient
pool_channels_sums   reads x (where the channel gate is inside the pool)
pool_space_sums      reads x (where the spatial gate is inside the pool)
map_gradient         reads x and the output's gradient, writes the map's
==================== ==================================================================

So a channel gate followed by a spatial one reads x three times and writes once, and six passes take it back. The
gradient of the map is written once, by ``branch``: it hands out slots, each a tensor of one element, for whatever else
that gradient depends on, and each operation returns to its slots, as their gradients, what it knows of it. An operation
that is given no slots forms the gradient of its map itself.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from blan_layers.kernels.gpu.gating import Slots, branch, gate, gate_sums, map_gradient, output_dtype
from blan_layers.kernels.gpu.once import refuse_batches
from blan_layers.kernels.gpu.pooling import pool_channels, pool_channels_sums, pool_space, pool_space_sums

Gradients: TypeAlias = tuple[Tensor | None, ...]


def _keep_pool_space(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, ctx.pools, slot, *_ = inputs
    _keep(ctx, slot, output[1], x, gate, output[1])


def _differentiate_pool_space(ctx: Any, d_pooled: Tensor | None, _: None) -> Gradients:
    refuse_batches(d_pooled)
    if d_pooled is None:
        return (None,) * 6
    x, gate, extremes = ctx.saved_tensors
    d_gate = None
    if gate is not None and ctx.needs_input_grad[1]:
        d_gate = pool_space_sums(x, gate, d_pooled, extremes, ctx.pools)
    terms = d_pooled, extremes if "max" in ctx.pools else None, gate
    if ctx.has_slots:
        return None, d_gate, None, *terms
    return (
        _own_gradient(ctx, x, Slots(None, None, None, None, None, None, None, *terms)),
        d_gate,
        None,
        None,
        None,
        None,
    )


pool_space.register_autograd(_differentiate_pool_space, setup_context=_keep_pool_space)


def _keep_pool_channels(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, shift, slot, *_ = inputs
    ctx.pools = ""
    _keep(ctx, slot, output[1], x, gate, shift, output[1])


def _differentiate_pool_channels(ctx: Any, d_maps: Tensor | None, _: None) -> Gradients:
    refuse_batches(d_maps)
    if d_maps is None:
        return (None,) * 7
    x, gate, shift, extremes = ctx.saved_tensors
    d_gate = d_shift = None
    if gate is not None and any(ctx.needs_input_grad[1:3]):
        d_gate, d_shift = pool_channels_sums(x, gate, shift, d_maps, extremes)
    terms = d_maps, extremes, gate, shift
    d_shift = None if shift is None else d_shift
    if ctx.has_slots:
        return None, d_gate, d_shift, *terms
    return _own_gradient(ctx, x, Slots(None, None, None, *terms)), d_gate, d_shift, None, None, None, None


pool_channels.register_autograd(_differentiate_pool_channels, setup_context=_keep_pool_channels)


def _keep_gate(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, gate, shift, spatial, residual, slot, *_ = inputs
    ctx.pools = ""
    ctx.residual_dtype = None if residual is None else residual.dtype
    _keep(ctx, slot, None, x, gate, shift, spatial)


def _differentiate_gate(ctx: Any, d_output: Tensor | None) -> Gradients:
    refuse_batches(d_output)
    if d_output is None:
        return (None,) * 8
    x, *factors = ctx.saved_tensors
    sums: Gradients = None, None, None
    if any(ctx.needs_input_grad[1:4]):
        sums = gate_sums(x, d_output, *factors)
    d_factors = (None if factor is None else d for factor, d in zip(factors, sums, strict=True))
    d_residual = d_output.to(ctx.residual_dtype) if ctx.needs_input_grad[4] else None
    terms = d_output, factors[0], factors[2]
    if ctx.has_slots:
        return None, *d_factors, d_residual, *terms
    return _own_gradient(ctx, x, Slots(*terms)), *d_factors, d_residual, None, None, None


gate.register_autograd(_differentiate_gate, setup_context=_keep_gate)


def _keep_branch(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    x, ctx.pools, _ = inputs
    _keep(ctx, None, None, x)


def _differentiate_branch(ctx: Any, *terms: Tensor | None) -> Gradients:
    (x,) = ctx.saved_tensors
    return _own_gradient(ctx, x, Slots(*terms)), None, None


branch.register_autograd(_differentiate_branch, setup_context=_keep_branch)


class TritonPasses:
    """The passes over one map, (B, C, *S): pools, and the gating that ends them."""

    def __init__(self, x: Tensor, pools: Sequence[str] = (), residual: Tensor | None = None) -> None:
        self.shape, self.x, self.pools = x.shape, x.flatten(2), ",".join(pools)
        self.residual = None if residual is None else residual.flatten(2)
        self.slots = Slots()
        if torch.is_grad_enabled() and x.requires_grad:
            self.slots = Slots(*branch(self.x, self.pools, output_dtype(x, residual)))

    def pool_space(self, spatial_gate: Tensor | None) -> Tensor:
        """Return the pools of the map, or of the gated one, over space: (pools, B, C)."""
        gate = None if spatial_gate is None else spatial_gate.flatten(2)
        pooled: Tensor
        pooled, _ = pool_space(self.x, gate, self.pools, *self.slots[7:])
        return pooled

    def pool_channels(self, channel_gate: Tensor | None, shift: Tensor | None) -> Tensor:
        """Return mean and maximum of the map, or of ``x * channel_gate + shift``, over channels: (B, 2, *S)."""
        maps: Tensor
        maps, _ = pool_channels(self.x, channel_gate, shift, *self.slots[3:7])
        return maps.view(*maps.shape[:2], *self.shape[2:])

    def gate(self, channel_gate: Tensor | None, shift: Tensor | None, spatial_gate: Tensor | None) -> Tensor:
        """Return ``(x * channel_gate + shift) * spatial_gate + residual``."""
        spatial = None if spatial_gate is None else spatial_gate.flatten(2)
        output: Tensor = gate(self.x, channel_gate, shift, spatial, self.residual, *self.slots[:3])
        return output.view(self.shape)


def _keep(ctx: Any, slot: Tensor | None, constant: Tensor | None, *tensors: Tensor | None) -> None:
    ctx.set_materialize_grads(False)
    ctx.has_slots = slot is not None
    if constant is not None:
        ctx.mark_non_differentiable(constant)
    ctx.save_for_backward(*tensors)


def _own_gradient(ctx: Any, x: Tensor, slots: Slots) -> Tensor | None:
    return map_gradient(x, *slots, ctx.pools) if ctx.needs_input_grad[0] else None
