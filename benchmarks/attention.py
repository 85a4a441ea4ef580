"""CBAM, RDAM as a whole and after its convolution, and other gates, against hand-written forms and timm's module."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.contest import TOLERANCES, Case, Contest, Floor, contender
from blan_layers import BAM, CBAM, ECA, RAR, RDAM, SCSE, AttentionGate, CoordinateAttention, functional
from blan_layers.functional import reference

Shape = tuple[int, int, int, int]
Gate: TypeAlias = ECA | SCSE | BAM | CoordinateAttention

SIZES: tuple[Shape, ...] = ((32, 64, 64, 64), (8, 64, 64, 64), (8, 128, 32, 32), (8, 256, 16, 16))
"""(B, C, H, W)"""

REDUCTION = 16


def cases(device: torch.device) -> Iterator[Case]:
    """Yield every subject at every size, eager and compiled, with and without gradients."""
    subjects: dict[str, Callable[..., Contest]] = {
        "CBAM": cbam,
        "RDAM after its convolution": residual,
        "RDAM": rdam,
    }
    if peers.timm() is not None:
        subjects["CBAM with batch norm"] = cbam_with_norm
    further: dict[str, Callable[..., Contest]] = {"AttentionGate": attention_gate, "RAR": rar}
    for compiled in (False, True):
        for subject, build in (subjects if compiled else subjects | further).items():
            for shape in SIZES:
                for differentiates in (True, False):
                    size = "({}, {}, {}x{})".format(*shape)
                    made = partial(build, shape=shape, device=device)
                    yield Case(subject, size, differentiates, compiled, made)
                    if device.type == "cuda" and subject in ("CBAM", "RDAM after its convolution"):
                        yield Case(subject, size, differentiates, compiled, made, torch.bfloat16)
    for kind in (ECA, SCSE, BAM, CoordinateAttention):
        for shape in SIZES:
            size = "({}, {}, {}x{})".format(*shape)
            made = partial(gate, kind=kind, shape=shape, device=device)
            for differentiates in (True, False):
                yield Case(kind.__name__, size, differentiates, compiled=False, build=made)


def cbam(case: Case, shape: Shape, device: torch.device) -> Contest:
    """CBAM without biases and batch norm, in all forms."""
    ours, (x,), cotangent = _drawn(case, shape, device, 1)
    timm_form, official = _adopted(peers.TimmForm, ours), _adopted(peers.OfficialForm, ours)

    def literal(x: Tensor) -> Tensor:
        return reference.dual_attention(x, *_weights(ours))

    enter = partial(contender, inputs=[x], case=case, cotangent=cotangent, compiled=case.compiled)
    contenders = [
        enter("ours", ours, parameters=ours.parameters()),
        enter("timm's form", timm_form, parameters=timm_form.parameters()),
        enter(
            "official form",
            official,
            parameters=official.parameters(),
            in_our_layout=peers.OfficialForm.swap_pools,
        ),
        enter("literal", literal, parameters=ours.parameters()),
    ]
    return Contest(contenders, _copies(x, 2.5 if case.differentiates else 1.0), TOLERANCES[case.dtype])


def cbam_with_norm(case: Case, shape: Shape, device: torch.device) -> Contest:
    """CBAM with a batch norm before its spatial sigmoid, as in timm's module."""
    ours, (x,), cotangent = _drawn(case, shape, device, 1, norm=nn.BatchNorm2d)
    theirs = peers.timm().layers.cbam.CbamModule(shape[1]).to(device, case.dtype)
    peers.adopt(theirs, ours)
    enter = partial(contender, inputs=[x], case=case, cotangent=cotangent, compiled=case.compiled)
    contenders = [
        enter(name, module.train(case.differentiates), parameters=module.parameters())
        for name, module in (("ours", ours), ("timm's CbamModule", theirs))
    ]
    return Contest(contenders, _copies(x, 2.5 if case.differentiates else 1.0), TOLERANCES[case.dtype])


def residual(case: Case, shape: Shape, device: torch.device) -> Contest:
    """A map with both gates applied, plus another map."""
    module, inputs, cotangent = _drawn(case, shape, device, 2)
    timm_form = _adopted(peers.TimmForm, module)

    def ours(x: Tensor, added: Tensor) -> Tensor:
        return functional.dual_attention(x, *_weights(module), residual=added)

    def plain(x: Tensor, added: Tensor) -> Tensor:
        gated: Tensor = timm_form(x)
        return gated + added

    def literal(x: Tensor, added: Tensor) -> Tensor:
        return reference.dual_attention(x, *_weights(module)) + added

    enter = partial(contender, inputs=inputs, case=case, cotangent=cotangent, compiled=case.compiled)
    contenders = [
        enter("ours", ours, parameters=module.parameters()),
        enter("timm's form", plain, parameters=timm_form.parameters()),
        enter("literal", literal, parameters=module.parameters()),
    ]
    return Contest(contenders, _copies(inputs[0], 3.0 if case.differentiates else 1.5), TOLERANCES[case.dtype])


def rdam(case: Case, shape: Shape, device: torch.device) -> Contest:
    """RDAM with its convolution."""
    channels = shape[1]
    torch.manual_seed(0)
    ours = RDAM(channels, bias=False).to(device, case.dtype)
    plain = peers.PlainRDAM(channels, ours.channel.fc1.out_features).to(device, case.dtype)
    peers.adopt(plain, ours)

    def pooled(encoder_features: Tensor, decoder_features: Tensor) -> tuple[Tensor, Tensor]:
        x = plain.conv(torch.cat([encoder_features, decoder_features], 1))
        return x, reference.channel_attention(x, *_weights(ours)[:4])

    inputs = _separated(torch.randn(2, *shape, device=device, dtype=case.dtype).unbind(), pooled)
    enter = partial(contender, inputs=inputs, case=case, cotangent=torch.randn_like(inputs[0]), compiled=case.compiled)
    return Contest(
        [
            enter("ours", ours, parameters=ours.parameters()),
            enter("timm's form", plain, parameters=plain.parameters()),
        ],
        tolerances=TOLERANCES[case.dtype],
    )


def gate(case: Case, kind: type[Gate], shape: Shape, device: torch.device) -> Contest:
    """Another gate and its literal form."""
    torch.manual_seed(0)
    ours = kind(shape[1], device=device, dtype=case.dtype)
    x = torch.randn(shape, device=device, dtype=case.dtype, requires_grad=True)
    parameters = list(ours.parameters())
    enter = partial(contender, inputs=[x], case=case, cotangent=torch.randn_like(x), parameters=parameters)
    contenders = [enter("ours", ours), enter("literal", partial(_literal, ours))]
    return Contest(contenders, _copies(x, 2.5 if case.differentiates else 1.0), TOLERANCES[case.dtype])


def _literal(ours: Gate, x: Tensor) -> Tensor:
    """Return the output of the paper's equations for a map."""
    if isinstance(ours, ECA):
        return reference.efficient_channel_attention(x, ours.conv.weight)
    weights = list(ours.parameters())
    if isinstance(ours, SCSE):
        w1, b1, w2, b2, weight, bias = weights
        return reference.concurrent_excitation(x, w1, b1, w2, b2, weight, bias)
    if isinstance(ours, BAM):
        return reference.bottleneck_attention(x, weights[:4], weights[4:])
    weight, bias, *others = weights
    return reference.coordinate_attention(x, weight, bias, list(zip(others[::2], others[1::2], strict=True)))


def attention_gate(case: Case, shape: Shape, device: torch.device) -> Contest:
    """Attention gate of a skip connection, gated by a map of twice the channels and half the size."""
    batch, channels, height, width = shape
    torch.manual_seed(0)
    ours = AttentionGate(channels, 2 * channels).to(device, case.dtype)

    def literal(skip: Tensor, gating: Tensor) -> Tensor:
        weights = ours.skip_conv.weight, ours.gating_conv.weight, ours.gating_conv.bias
        return reference.attention_gate(skip, gating, *weights, ours.psi.weight, ours.psi.bias)

    shapes = shape, (batch, 2 * channels, -(-height // 2), -(-width // 2))
    inputs = [torch.randn(size, device=device, dtype=case.dtype, requires_grad=True) for size in shapes]
    return _beside_literal(case, ours, literal, inputs)


def rar(case: Case, shape: Shape, device: torch.device) -> Contest:
    """RAR with two recurrent steps on two maps."""
    torch.manual_seed(0)
    ours = RAR(shape[1]).to(device, case.dtype)

    def layers(part: nn.Module) -> list[tuple[Tensor, Tensor | None]]:
        return [(layer.weight, layer.bias) for layer in part.children() if isinstance(layer, nn.Conv2d)]

    def literal(encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
        blocks = [layers(block) for block in (ours.block1, ours.block2, ours.block3)]
        weights = layers(ours.refine), blocks, layers(ours.shortcut)
        return reference.recurrent_attention_residual(encoder_features, decoder_features, *weights, ours.steps)

    inputs = [torch.randn(shape, device=device, dtype=case.dtype, requires_grad=True) for _ in range(2)]
    return _beside_literal(case, ours, literal, inputs)


def _beside_literal(case: Case, ours: nn.Module, literal: Callable[..., Tensor], inputs: Sequence[Tensor]) -> Contest:
    cotangent = torch.randn_like(inputs[0])
    enter = partial(contender, inputs=inputs, case=case, cotangent=cotangent, compiled=case.compiled)
    contenders = [
        enter(name, form, parameters=ours.parameters()) for name, form in (("ours", ours), ("literal", literal))
    ]
    return Contest(contenders, tolerances=TOLERANCES[case.dtype])


def _drawn(
    case: Case, shape: Shape, device: torch.device, maps: int, norm: type[nn.Module] | None = None
) -> tuple[CBAM, list[Tensor], Tensor]:
    """Return our module, its input maps (the first is gated), and the gradient of its output."""
    torch.manual_seed(0)
    ours = CBAM(shape[1], reduction_ratio=REDUCTION, bias=False, norm=norm).to(device, case.dtype)

    def pooled(x: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        return x, reference.channel_attention(x, *_weights(ours)[:4])

    inputs = _separated(torch.randn(maps, *shape, device=device, dtype=case.dtype).unbind(), pooled)
    return ours, inputs, torch.randn_like(inputs[0])


@torch.no_grad()
def _separated(
    inputs: Sequence[Tensor], pooled: Callable[..., tuple[Tensor, Tensor]], most_draws: int = 100
) -> list[Tensor]:
    """Redraw the locations at which rounding would decide which of two elements is the maximum.

    ``pooled`` returns the maps whose maxima are taken over space and over channels. The gradient of a maximum goes to
    the element that attains it, so that two implementations may differ there although both are correct.
    """
    margin = max(1e-5, 4 * torch.finfo(inputs[0].dtype).eps)
    drawn = [x.contiguous() for x in inputs]
    for _ in range(most_draws):
        over_space, over_channels = pooled(*drawn)
        close = _close(over_channels.topk(2, 1).values.movedim(1, -1), margin)
        tops, places = over_space.flatten(2).topk(2, 2)
        image, channel = _close(tops, margin).nonzero(as_tuple=True)
        close.view(len(close), -1)[image, places[image, channel, 1]] = True
        if not close.any():
            return [x.requires_grad_() for x in drawn]
        drawn = [torch.where(close[:, None], torch.randn_like(x), x) for x in drawn]
    raise RuntimeError(f"attention: maxima must differ by {margin:g} of their size, got closer ones in every draw.")


def _close(tops: Tensor, margin: float) -> Tensor:
    return (tops[..., 0] - tops[..., 1]) <= margin * tops[..., 0].abs()


def _weights(module: CBAM | RDAM) -> tuple[Tensor, None, Tensor, None, Tensor]:
    return module.channel.fc1.weight, None, module.channel.fc2.weight, None, module.spatial.conv.weight


def _adopted(form: Callable[[int, int], nn.Module], ours: CBAM) -> nn.Module:
    """Return a hand-written form with our weights."""
    weight = ours.channel.fc1.weight
    peer = form(ours.channels, weight.shape[0]).to(weight)
    peers.adopt(peer, ours)
    return peer


def _copies(x: Tensor, times: float) -> Floor:
    """Return the minimum memory traffic: each map is read or written once; a copy is two such passes."""
    source, target = x.detach(), torch.empty_like(x)
    bytes_of_map = x.numel() * x.element_size()
    return Floor("copies of the map", lambda: target.copy_(source), times, 2 * bytes_of_map, "B")
