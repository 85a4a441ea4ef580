r"""Literal implementations of the papers: the readable specification, and the ground truth of tests and benchmarks.

Nothing here is fast, checks its inputs, or is used by the modules. Each function writes one equation in about as many
lines as the equation has. Every weight is an argument, so that a test can pass the weights of the module that it
compares with.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor

Weights: TypeAlias = Sequence[tuple[Tensor, Tensor | None]]
"""Weights and biases of consecutive layers."""


def mlp(v: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    """Return the one-hidden-layer perceptron of Eq. 2, for v (B, C)."""
    return F.linear(F.relu(F.linear(v, w1, b1)), w2, b2)


def channel_map(
    x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None, pools: Sequence[str] = ("avg", "max")
) -> Tensor:
    """Return sigmoid(MLP(avg(x)) + MLP(max(x))), (B, C), for the named pools."""
    pooled = {"avg": reduce(x, "b c ... -> b c", "mean"), "max": reduce(x, "b c ... -> b c", "max")}
    return torch.sigmoid(sum((mlp(pooled[pool], w1, b1, w2, b2) for pool in pools), torch.zeros(())))


def channel_attention(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    pools: Sequence[str] = ("avg", "max"),
    form: str = "cbam",
) -> Tensor:
    """Return Eq. 2 with the sigmoid around both branches ("cbam"), or as printed ("printed")."""
    if form == "cbam":
        return torch.einsum("bc...,bc->bc...", x, channel_map(x, w1, b1, w2, b2, pools))
    added = mlp(reduce(x, "b c ... -> b c", "max"), w1, b1, w2, b2)
    gated = torch.einsum("bc...,bc->bc...", x, channel_map(x, w1, b1, w2, b2, ("avg",)))
    return gated + added.reshape(*added.shape, *[1] * (x.ndim - 2))


def spatial_map(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return sigmoid(Conv([AvgPool(x); MaxPool(x)])), (B, 1, *S), of Eq. 3."""
    pooled = torch.cat([reduce(x, "b c ... -> b 1 ...", "mean"), reduce(x, "b c ... -> b 1 ...", "max")], 1)
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.ndim - 2]
    return torch.sigmoid(conv(pooled, weight, bias, padding=[size // 2 for size in weight.shape[2:]]))


def spatial_attention(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return Eq. 3: the map times its spatial gate."""
    return x * spatial_map(x, weight, bias)


def dual_attention(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    pools: Sequence[str] = ("avg", "max"),
    arrangement: str = "channel-spatial",
    form: str = "cbam",
) -> Tensor:
    """Return the three arrangements of section 4.2."""
    if arrangement == "channel-spatial":
        return spatial_attention(channel_attention(x, w1, b1, w2, b2, pools, form), weight, bias)
    if arrangement == "spatial-channel":
        return channel_attention(spatial_attention(x, weight, bias), w1, b1, w2, b2, pools, form)
    return channel_attention(x, w1, b1, w2, b2, pools, form) * spatial_map(x, weight, bias)


def residual_dual_attention(
    encoder_features: Tensor,
    decoder_features: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    pools: Sequence[str] = ("avg", "max"),
    arrangement: str = "channel-spatial",
    form: str = "cbam",
) -> Tensor:
    """Return RDAM (section 3.2): F_attn = F_spt + F_enc."""
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[encoder_features.ndim - 2]
    padding = [size // 2 for size in conv_weight.shape[2:]]
    f_conv = conv(torch.cat([encoder_features, decoder_features], 1), conv_weight, conv_bias, padding=padding)
    return dual_attention(f_conv, w1, b1, w2, b2, weight, bias, pools, arrangement, form) + encoder_features


def efficient_channel_attention(x: Tensor, weight: Tensor) -> Tensor:
    """Return ECA: x times omega = sigmoid(C1D_k(GAP(x))), the weights of the channels."""
    descriptor = reduce(x, "b c ... -> b 1 c", "mean")
    omega = torch.sigmoid(F.conv1d(descriptor, weight, padding=weight.shape[2] // 2))
    return torch.einsum("bc...,bc->bc...", x, rearrange(omega, "b 1 c -> b c"))


def adaptive_kernel_size(channels: int, gamma: float = 2, b: float = 1) -> int:
    """Return ECA's ``k = |log2(C) / gamma + b / gamma|_odd``, the larger of two equally near odd numbers."""
    t = math.log2(channels) / gamma + b / gamma
    return min(range(1, channels + 3, 2), key=lambda k: (abs(t - k), -k))


def concurrent_excitation(
    x: Tensor,
    w1: Tensor,
    b1: Tensor | None,
    w2: Tensor,
    b2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    combine: str = "sum",
) -> Tensor:
    """Return scSE: U_cSE + U_sSE, or max(U_cSE, U_sSE)."""
    by_channel = channel_attention(x, w1, b1, w2, b2, pools=("avg",))
    q = pointwise(x, weight, bias)
    by_location = x * torch.sigmoid(q)
    return by_channel + by_location if combine == "sum" else torch.maximum(by_channel, by_location)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the 1x1 convolution of a map, (B, O, *S), for weights (O, C, 1, ...)."""
    y = torch.einsum("bc...,oc->bo...", x, rearrange(weight, "o c ... -> o (c ...)"))
    return y if bias is None else y + bias.reshape(-1, *[1] * (x.ndim - 2))


def bottleneck_attention(
    x: Tensor,
    channel_weights: Sequence[Tensor],
    spatial_weights: Sequence[Tensor],
    norms: Sequence[Callable[[Tensor], Tensor]] | None = None,
    dilation: int = 4,
) -> Tensor:
    """Return BAM: F + F * M with M = sigmoid(M_c + M_s); the norms are one for M_c and three for M_s."""
    norm = norms or [lambda y: y] * 4
    w, b, w_out, b_out = channel_weights
    f0, b0, f1, b1, f2, b2, f3, b3 = spatial_weights
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.ndim - 2]
    m_c = F.linear(F.relu(norm[0](F.linear(reduce(x, "b c ... -> b c", "mean"), w, b))), w_out, b_out)
    m_s = F.relu(norm[1](pointwise(x, f0, b0)))
    m_s = F.relu(norm[2](conv(m_s, f1, b1, padding=dilation, dilation=dilation)))
    m_s = F.relu(norm[3](conv(m_s, f2, b2, padding=dilation, dilation=dilation)))
    m_s = pointwise(m_s, f3, b3)
    m = torch.sigmoid(m_c.reshape(*m_c.shape, *[1] * (x.ndim - 2)) + m_s)
    return x + x * m


def coordinate_attention(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    axis_weights: Sequence[tuple[Tensor, Tensor]],
    norm: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return coordinate attention: x times one gate per axis; ``axis_weights`` are in the order of the axes."""
    axes = ("d", "h", "w")[5 - x.ndim :]
    space = " ".join(axes)
    z = [reduce(x, f"b c {space} -> b c {axis}", "mean") for axis in axes]
    f = pointwise(torch.cat(z, 2), weight, bias)
    f = f if norm is None else norm(f)
    f = f * F.relu6(f + 3) / 6
    y = x
    for axis, part, (w, b) in zip(axes, f.split([each.shape[2] for each in z], 2), axis_weights, strict=True):
        g = torch.sigmoid(pointwise(part, w, b))
        y = torch.einsum(f"bc{''.join(axes)},bc{axis}->bc{''.join(axes)}", y, g)
    return y


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1, groups: int = 1) -> Tensor:
    """Return the convolution that keeps the size of the map."""
    conv = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[x.ndim - 2]
    padding = [dilation * (size // 2) for size in weight.shape[2:]]
    return conv(x, weight, bias, padding=padding, dilation=dilation, groups=groups)


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Return a map resized to another, by linear interpolation."""
    return F.interpolate(x, like.shape[2:], mode={1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2])


def attention_gate(
    skip: Tensor,
    gating: Tensor,
    w_x: Tensor,
    w_g: Tensor,
    b_g: Tensor | None,
    psi: Tensor,
    b_psi: Tensor | None,
) -> Tensor:
    """Return x alpha by Eqs. 1 and 2 of Attention U-Net, with the sum on the gating signal's grid."""
    added = resize(convolve(skip, w_x, None), gating) + convolve(gating, w_g, b_g)
    q_att = convolve(F.relu(added), psi, b_psi)
    return skip * torch.sigmoid(resize(q_att, skip))


def bottleneck(x: Tensor, layers: Weights, dilation: int = 1, groups: int = 1) -> Tensor:
    """Return three convolutions, the middle one in groups, with ReLUs between."""
    first, middle, last = layers
    hidden = F.relu(convolve(x, *first))
    hidden = F.relu(convolve(hidden, *middle, dilation, groups))
    return convolve(hidden, *last)


def recurrent_attention_residual(
    encoder_features: Tensor,
    decoder_features: Tensor,
    refine: Weights,
    blocks: Sequence[Weights],
    shortcut: Weights,
    steps: int = 2,
) -> Tensor:
    """Return RAR (Zhu et al. 2018): x = (1 + A) relu(R + x) in several steps, with A and R from x and the other map."""
    x, channels = encoder_features, encoder_features.shape[1]
    groups = math.gcd(channels, decoder_features.shape[1])
    for _ in range(steps):
        joined = torch.cat([x, decoder_features], 1)
        y = F.relu(bottleneck(joined, refine, groups=channels) + x)
        h = F.relu(bottleneck(joined, blocks[0], 2, groups) + joined)
        h = F.relu(bottleneck(h, blocks[1], 3, groups) + h)
        attention = torch.sigmoid(bottleneck(h, blocks[2], 4, groups) + convolve(h, *shortcut[0]))
        x = (1 + attention) * y
    return x


def residual_unit(x: Tensor, layers: Weights) -> Tensor:
    """Return x plus a pre-activated bottleneck."""
    return x + bottleneck(F.relu(x), layers)


def hourglass(x: Tensor, levels: Sequence[Sequence[Weights]]) -> Tensor:
    """Pool, apply the deeper levels beside a skip connection, and upsample to x (Wang et al. 2017, Fig. 2)."""
    (down, up, *skip), *deeper = levels
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[x.ndim - 2]
    y = residual_unit(pool(x, kernel_size=3, stride=2, padding=1), down)
    if deeper:
        y = residual_unit(y, skip[0]) + hourglass(y, deeper)
    return resize(residual_unit(y, up), x)


def soft_mask(x: Tensor, levels: Sequence[Sequence[Weights]], head: Weights, form: str = "mixed") -> Tensor:
    """Return the soft mask M of Wang et al. 2017 with one of the normalisations of Eqs. 4 to 6."""
    z = convolve(F.relu(hourglass(x, levels)), *head[0])
    z = convolve(F.relu(z), *head[1])
    if form == "mixed":
        return torch.sigmoid(z)
    if form == "channel":
        return z / (reduce(z**2, "b c ... -> b 1 ...", "sum") + 1e-5).sqrt()
    flat = rearrange(z, "b c ... -> b c (...)")
    flat = (flat - flat.mean(2, True)) / (flat.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    return torch.sigmoid(flat.reshape(z.shape))


def residual_attention(trunk: Tensor, mask: Tensor) -> Tensor:
    """Return H = (1 + M) T, Eq. 3 of Wang et al. 2017."""
    return (1 + mask) * trunk


def concat_conv_logits(
    local_features: Tensor,
    global_features: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    """Replicate the summaries over the map, concatenate, and apply three 1x1 convolutions."""
    local = rearrange(local_features, "b c ... -> b c (...)")
    pairs = torch.cat([local, repeat(global_features, "b d -> b d u", u=local.shape[2])], 1)
    hidden = F.relu(F.conv1d(pairs, rearrange(w1, "o i -> o i 1"), b1))
    hidden = F.relu(F.conv1d(hidden, rearrange(w2, "o i -> o i 1"), b2))
    logits = F.conv1d(hidden, rearrange(w3, "o i -> o i 1"), b3)
    return logits.reshape(local_features.shape[0], *local_features.shape[2:])


def global_logits(
    inputs: Tensor,
    global_features: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    """Flatten the inputs, concatenate the summaries, and apply three fully connected layers."""
    hidden = F.relu(F.linear(torch.cat([rearrange(inputs, "b ... -> b (...)"), global_features], 1), w1, b1))
    return F.linear(F.relu(F.linear(hidden, w2, b2)), w3, b3).squeeze(1)


def residual_encoder(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, shortcut: Tensor) -> Tensor:
    """Return Deep InfoMax's encoder of vectors (B, C) before its norm."""
    return mlp(x, w1, b1, w2, b2) + F.linear(x, shortcut)


def dot_product_logits(
    local_features: Tensor, global_features: Tensor, local_weights: Sequence[Tensor], global_weights: Sequence[Tensor]
) -> Tensor:
    """Return the inner product of each location's normalised code and the summary's code."""
    *layers, gain, offset = local_weights
    summary = residual_encoder(global_features, *global_weights)
    logits = []
    for local in rearrange(local_features, "b c ... -> (...) b c"):
        code = residual_encoder(local, *layers)
        code = (code - code.mean(1, True)) / (code.var(1, correction=0, keepdim=True) + 1e-5).sqrt() * gain + offset
        logits.append((code * summary).sum(1))
    return torch.stack(logits, 1).reshape(local_features.shape[0], *local_features.shape[2:])


def separable_logits(
    local_features: Tensor, global_features: Tensor, local_weights: Sequence[Tensor], global_weights: Sequence[Tensor]
) -> Tensor:
    """Return the inner product of two perceptrons' outputs, for each location and for the summary."""

    def encode(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor) -> Tensor:
        return F.linear(F.relu(mlp(x, w1, b1, w2, b2)), w3, b3)

    summary = encode(global_features, *global_weights)
    logits = [
        (encode(local, *local_weights) * summary).sum(1) for local in rearrange(local_features, "b c ... -> (...) b c")
    ]
    return torch.stack(logits, 1).reshape(local_features.shape[0], *local_features.shape[2:])


def bilinear_logits(local_features: Tensor, global_features: Tensor, weight: Tensor) -> Tensor:
    """Return local_u^T W global."""
    return torch.einsum("bc...,cd,bd->b...", local_features, weight, global_features)


def cosine_logits(
    local_features: Tensor,
    global_features: Tensor,
    local_weights: Sequence[Tensor],
    global_weights: Sequence[Tensor],
    temperature: Tensor | float,
) -> Tensor:
    """Return the cosine of linear embeddings of each location and of the summary, divided by the temperature."""
    summary = F.linear(global_features, *global_weights)
    logits = [
        F.cosine_similarity(F.linear(local, *local_weights), summary) / temperature
        for local in rearrange(local_features, "b c ... -> (...) b c")
    ]
    return torch.stack(logits, 1).reshape(local_features.shape[0], *local_features.shape[2:])


def bce_loss(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Return the binary cross entropy of 'real' against 1, plus that of 'fake' against 0."""
    real = F.binary_cross_entropy_with_logits(positive_logits, torch.ones_like(positive_logits))
    fake = F.binary_cross_entropy_with_logits(negative_logits, torch.zeros_like(negative_logits))
    return real + fake


def jsd_objective(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Return 2 log 2 + E[-softplus(-positive)] - E[softplus(negative)]."""
    return 2 * math.log(2) - bce_loss(positive_logits, negative_logits)


def dv_lower_bound(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Return E_P[T] - log E_Q[exp T] (Donsker and Varadhan)."""
    return positive_logits.mean() - negative_logits.exp().mean().log()


def mine_gradient(positive_logits: Tensor, negative_logits: Tensor, running_mean: Tensor) -> Tensor:
    """Return a value with MINE's gradient: the mean divided by a running mean replaces the log of the mean."""
    return positive_logits.mean() - negative_logits.exp().mean() / running_mean


def running_mean(negative_logits: Tensor, before: Tensor, momentum: float) -> Tensor:
    """Return the exponential moving average of E_Q[exp T] after a batch."""
    return (1 - momentum) * before + momentum * negative_logits.exp().mean()


def nwj_lower_bound(positive_logits: Tensor, negative_logits: Tensor) -> Tensor:
    """Return E_P[T] - E_Q[exp(T - 1)] (Nguyen, Wainwright and Jordan)."""
    return positive_logits.mean() - (negative_logits - 1).exp().mean()


def tuba_lower_bound(positive_logits: Tensor, negative_logits: Tensor, log_baseline: Tensor | float) -> Tensor:
    """Return 1 + E_P[log(exp(T) / a)] - E_Q[exp(T) / a] with log a given (Poole et al. 2019)."""
    return 1 + (positive_logits - log_baseline).mean() - (negative_logits - log_baseline).exp().mean()


def infonce_lower_bound(logits: Tensor) -> Tensor:
    """Return 1/N sum_i log(exp(T_ii) / (1/N sum_j exp(T_ij))) (van den Oord et al. 2018)."""
    scores, items = logits.exp(), range(len(logits))
    return torch.stack([(scores[i, i] / scores[i].mean()).log() for i in items]).mean()


def supervised_contrastive_loss(logits: Tensor, positives: Tensor, candidates: Tensor) -> Tensor:
    """Return L_out (Khosla et al. 2020, Eq. 2).

    ``-1/N sum_i 1/|P(i)| sum_p log(exp(T_ip) / sum_a exp(T_ia))``
    """
    scores, losses = logits.exp(), []
    for i in range(len(logits)):
        total = scores[i][candidates[i]].sum()
        losses.append(-torch.stack([(scores[i, p] / total).log() for p in positives[i].nonzero()]).mean())
    return torch.stack(losses).mean()


def alpha_lower_bound(logits: Tensor, log_baseline: Tensor, alpha: float) -> Tensor:
    """Return I_alpha (Poole et al. 2019), leaving out every candidate but the item's own in turn."""
    scores, baseline, items = logits.exp(), log_baseline.exp(), range(len(logits))
    joint, marginal = [], []
    for i in items:
        for j in items:
            if i != j:
                real = (1 - alpha) * baseline[i] + alpha * torch.stack([scores[i, k] for k in items if k != j]).mean()
                fake = (1 - alpha) * baseline[i] + alpha * torch.stack([scores[i, k] for k in items if k != i]).mean()
                joint.append((scores[i, i] / real).log())
                marginal.append(scores[i, j] / fake)
    return 1 + torch.stack(joint).mean() - torch.stack(marginal).mean()


def smile_estimate(positive_logits: Tensor, negative_logits: Tensor, clip: float = 5.0) -> Tensor:
    """Return E_P[T] - log E_Q[clip(exp T, exp(-clip), exp(clip))] (Song and Ermon 2020)."""
    return positive_logits.mean() - negative_logits.exp().clamp(math.exp(-clip), math.exp(clip)).mean().log()


def club_upper_bound(positive_log_likelihood: Tensor, negative_log_likelihood: Tensor) -> Tensor:
    """Return E_P[log p(y | x)] - E_Q[log p(y | x)] (Cheng et al. 2020)."""
    return positive_log_likelihood.mean() - negative_log_likelihood.mean()


def gaussian_club(
    x: Tensor, y: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w3: Tensor, b3: Tensor
) -> Tensor:
    """Return CLUB with q(y | x) = N(mean(x), variance(x)), and every y with every x but its own as fake pairs."""
    mean, raw = F.linear(F.relu(mlp(x, w1, b1, w2, b2)), w3, b3).chunk(2, 1)
    variance, rows = (10 * torch.tanh(raw / 10)).exp(), range(len(x))

    def log_likelihood(i: int, j: int) -> Tensor:
        return -((y[j] - mean[i]) ** 2 / variance[i] + (2 * math.pi * variance[i]).log()).sum() / 2

    real = torch.stack([log_likelihood(i, i) for i in rows])
    return club_upper_bound(real, torch.stack([log_likelihood(i, j) for i in rows for j in rows if i != j]))


def f_divergence_objective(positive_logits: Tensor, negative_logits: Tensor, divergence: str) -> Tensor:
    """Return E_P[g(v)] - E_Q[f*(g(v))] with Nowozin et al.'s activations g and conjugates f*, or Wasserstein's."""
    if divergence == "wasserstein":
        return positive_logits.mean() - negative_logits.mean()
    activation: Callable[[Tensor], Tensor] = {
        "gan": lambda v: -torch.log(1 + torch.exp(-v)),
        "jsd": lambda v: math.log(2) - torch.log(1 + torch.exp(-v)),
        "kl": lambda v: v,
        "rkl": lambda v: -torch.exp(-v),
        "chi_squared": lambda v: v,
        "squared_hellinger": lambda v: 1 - torch.exp(-v),
    }[divergence]
    conjugate: Callable[[Tensor], Tensor] = {
        "gan": lambda t: -torch.log(1 - torch.exp(t)),
        "jsd": lambda t: -torch.log(2 - torch.exp(t)),
        "kl": lambda t: torch.exp(t - 1),
        "rkl": lambda t: -1 - torch.log(-t),
        "chi_squared": lambda t: t**2 / 4 + t,
        "squared_hellinger": lambda t: t / (1 - t),
    }[divergence]
    return activation(positive_logits).mean() - conjugate(activation(negative_logits)).mean()


def mutual_information_certificate(mean_bce: float) -> float:
    """Return -log(1 - t) for the t at which the joint range of JS and KL has JS = log 2 - mean_bce, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(200):
        t = (low + high) / 2
        if t == 1.0:  # there is no number in between
            break
        js = (-math.log(1 - t / 2) + (1 - t) * math.log((1 - t) / (1 - t / 2)) + t * math.log(2)) / 2
        low, high = (t, high) if js < math.log(2) - mean_bce else (low, t)
    return -math.log(1 - low)


def lmim_loss(
    local_features: Tensor,
    global_features: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
    shift: int = 1,
) -> Tensor:
    """Return Eq. 5 as a loss: each map paired with its own summary and with another image's."""
    layers = w1, b1, w2, b2, w3, b3
    real = concat_conv_logits(local_features, global_features, *layers)
    fake = concat_conv_logits(local_features, global_features.roll(-shift, 0), *layers)
    return bce_loss(real, fake)


def prior_matching_loss(
    summaries: Tensor,
    samples: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    w3: Tensor,
    b3: Tensor,
) -> Tensor:
    """Return the discriminator's cross entropy on detached summaries, plus the summaries' under a frozen one."""

    def discriminator(x: Tensor, *layers: Tensor) -> Tensor:
        return F.linear(F.relu(mlp(x, *layers[:4])), *layers[4:])

    layers = w1, b1, w2, b2, w3, b3
    told_apart = bce_loss(discriminator(samples, *layers), discriminator(summaries.detach(), *layers))
    fooled = discriminator(summaries, *(weight.detach() for weight in layers))
    return told_apart + F.binary_cross_entropy_with_logits(fooled, torch.ones_like(fooled))


def score_fusion(scores: Tensor, weight: Tensor) -> Tensor:
    """Return Eq. 6 before its softmax: the K scores and their sum, concatenated, weighted and summed."""
    joined = torch.cat([scores, reduce(scores, "k b n c -> 1 b n c", "sum")])
    return torch.einsum("kn,kbnc->bnc", weight, joined)
