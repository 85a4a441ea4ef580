"""The operations of the attention gates on a large map, and the passes that use them.

Maps are (B, C, N) with any strides, channel gates and shifts (B, C, 1), spatial gates (B, 1, N). Everything is computed
in float32 (float64 for float64 maps) and stored in the map's dtype. Memory traffic of each operation, in maps, without
the smaller tensors:

==================== ==================================================================
pool_space           reads x
pool_channels        reads x
gate                 reads x and the residual, writes the output
gate_sums            reads x and the output's gradient
pool_channels_sums   reads x (where the channel gate is inside the pool)
pool_space_sums      reads x (where the spatial gate is inside the pool)
map_gradient         reads x and the output's gradient, writes the map's
==================== ==================================================================

A channel gate followed by a spatial gate thus reads x three times and writes once, and the backward takes six passes.
The gradient of the map is written once, by ``branch``. It creates slots, one-element tensors, for everything that this
gradient depends on, and each operation returns its contribution as the gradients of its slots. An operation without
slots computes the gradient of its map itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blan_layers.kernels.derivatives import Gradients, needs_plain, plain_gradients
from blan_layers.kernels.gpu.gating import Slots, branch, gate, gate_sums, map_gradient, output_dtype
from blan_layers.kernels.gpu.pooling import pool_channels, pool_channels_sums, pool_space, pool_space_sums
from blan_layers.kernels.passes import PlainPasses


def _keep_pool_space(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, ctx.pools, slot, *_ = inputs
    _keep(ctx, slot, output[1], x, gate, output[1])


def _differentiate_pool_space(ctx: Any, d_pooled: Tensor | None, _: None) -> Gradients:
    if d_pooled is None:
        return (None,) * 6
    x, gate, extremes = ctx.saved_tensors
    if needs_plain(d_pooled):
        pools = ctx.pools.split(",")

        def plain(x: Tensor, gate: Tensor | None) -> Tensor:
            return PlainPasses(x, pools).pool_space(gate).transpose(0, 1)

        return *plain_gradients(plain, (x, gate), ctx.needs_input_grad[:2], (d_pooled,)), None, None, None, None
    d_gate = None
    if gate is not None and ctx.needs_input_grad[1]:
        d_gate = pool_space_sums(x, gate, d_pooled, extremes, ctx.pools)
    terms = d_pooled, extremes if "max" in ctx.pools else None, gate
    if ctx.has_slots:
        return None, d_gate, None, *terms
    slots = Slots(None, None, None, None, None, None, None, *terms)
    return _own_gradient(ctx, x, slots), d_gate, None, None, None, None


pool_space.register_autograd(_differentiate_pool_space, setup_context=_keep_pool_space)


def _keep_pool_channels(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, gate, shift, slot, *_ = inputs
    ctx.pools = ""
    _keep(ctx, slot, output[1], x, gate, shift, output[1])


def _differentiate_pool_channels(ctx: Any, d_maps: Tensor | None, _: None) -> Gradients:
    if d_maps is None:
        return (None,) * 7
    x, gate, shift, extremes = ctx.saved_tensors
    if needs_plain(d_maps):

        def plain(x: Tensor, gate: Tensor | None, shift: Tensor | None) -> Tensor:
            return PlainPasses(x).pool_channels(gate, shift)

        found = plain_gradients(plain, (x, gate, shift), ctx.needs_input_grad[:3], (d_maps,))
        return *found, None, None, None, None
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
    x, gate, shift, spatial, residual, ctx.shape, slot, *_ = inputs
    ctx.pools = ""
    ctx.residual_dtype = None if residual is None else residual.dtype
    _keep(ctx, slot, None, x, gate, shift, spatial)


def _differentiate_gate(ctx: Any, d_map: Tensor | None) -> Gradients:
    if d_map is None:
        return (None,) * 9
    x, *factors = ctx.saved_tensors
    d_output = d_map.reshape(x.shape)
    d_residual = d_output.to(ctx.residual_dtype) if ctx.needs_input_grad[4] else None
    if needs_plain(d_map):

        def plain(x: Tensor, gate: Tensor | None, shift: Tensor | None, spatial: Tensor | None) -> Tensor:
            return PlainPasses(x).gate(gate, shift, spatial).to(d_map.dtype)

        found = plain_gradients(plain, (x, *factors), ctx.needs_input_grad[:4], (d_output,))
        return *found, d_residual, None, None, None, None
    sums: Gradients = None, None, None
    if any(ctx.needs_input_grad[1:4]):
        sums = gate_sums(x, d_output, *factors)
    d_factors = (None if factor is None else d for factor, d in zip(factors, sums, strict=True))
    terms = d_output, factors[0], factors[2]
    if ctx.has_slots:
        return None, *d_factors, d_residual, None, *terms
    return _own_gradient(ctx, x, Slots(*terms)), *d_factors, d_residual, None, None, None, None


gate.register_autograd(_differentiate_gate, setup_context=_keep_gate)


def _keep_branch(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    x, ctx.pools, _ = inputs
    _keep(ctx, None, None, x)


def _differentiate_branch(ctx: Any, *terms: Tensor | None) -> Gradients:
    (x,) = ctx.saved_tensors
    if all(term is None for term in terms):  # plain operations computed the gradient of the map
        return None, None, None
    return _own_gradient(ctx, x, Slots(*terms)), None, None


branch.register_autograd(_differentiate_branch, setup_context=_keep_branch)


class TritonPasses(PlainPasses):
    """The passes over a map (B, C, *S) by Triton kernels."""

    plain = False

    def __init__(self, x: Tensor, pools: Sequence[str] = (), residual: Tensor | None = None) -> None:
        super().__init__(x, pools, residual)
        self.flat, self.names = x.flatten(2), ",".join(pools)
        self.slots = Slots()
        if torch.is_grad_enabled() and x.requires_grad:
            self.slots = Slots(*branch(self.flat, self.names, output_dtype(x, residual)))

    def pool_space(self, spatial_gate: Tensor | None = None) -> Tensor:
        """Return the pools of the map over space: (B, pools, C)."""
        if not self.fit(spatial_gate=spatial_gate):
            return super().pool_space(spatial_gate)
        pooled: Tensor
        pooled, _ = pool_space(self.flat, _flat(spatial_gate), self.names, *self.slots[7:])
        return pooled.transpose(0, 1).contiguous()

    def pool_channels(self, channel_gate: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """Return mean and maximum of the map over channels: (B, 2, *S)."""
        if not self.fit(channel_gate, shift):
            return super().pool_channels(channel_gate, shift)
        maps: Tensor
        maps, _ = pool_channels(self.flat, _flat(channel_gate), _flat(shift), *self.slots[3:7])
        return maps.view(*maps.shape[:2], *self.x.shape[2:])

    def gate(
        self, channel_gate: Tensor | None = None, shift: Tensor | None = None, spatial_gate: Tensor | None = None
    ) -> Tensor:
        """Return ``(x * channel_gate + shift) * spatial_gate + residual``."""
        if not self.fit(channel_gate, shift, spatial_gate):
            return super().gate(channel_gate, shift, spatial_gate)
        factors = _flat(channel_gate), _flat(shift), _flat(spatial_gate)
        output: Tensor = gate(self.flat, *factors, _flat(self.residual), list(self.x.shape), *self.slots[:3])
        return output


def _flat(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.flatten(2)


def _keep(ctx: Any, slot: Tensor | None, constant: Tensor | None, *tensors: Tensor | None) -> None:
    ctx.set_materialize_grads(False)
    ctx.has_slots = slot is not None
    if constant is not None:
        ctx.mark_non_differentiable(constant)
    ctx.save_for_backward(*tensors)


def _own_gradient(ctx: Any, x: Tensor, slots: Slots) -> Tensor | None:
    return map_gradient(x, *slots, ctx.pools) if ctx.needs_input_grad[0] else None
