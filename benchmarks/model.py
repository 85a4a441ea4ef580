"""BLAN of the paper's size: training step and inference, against the same model built from the plain forms."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.contest import TOLERANCES, Case, Contender, Contest, Results
from blan_facial.config import PRESETS, Config
from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.data.loading import normalize
from blan_facial.network.builder import build
from blan_facial.network.model import BLAN
from blan_facial.network.objective import MutualInformation, Objective
from blan_facial.training.learner import TrainingStep
from blan_layers import RDAM, LMIMLoss

Assembly = tuple[BLAN, Objective]


def cases(device: torch.device, config: Config = PRESETS["celeba"]) -> Iterator[Case]:
    """Yield the training step, and inference for one image and for a batch."""
    cuda = device.type == "cuda"
    for dtype in (torch.float32, torch.bfloat16) if cuda else (torch.float32,):
        batch = 64 if cuda else 8
        made = partial(training, config=config, batch=batch, device=device)
        yield Case("BLAN training step", _size(batch, config), True, False, made, dtype, least_rounds=5)
        for batch in (1, 64):
            made = partial(inference, config=config, batch=batch, device=device)
            yield Case("BLAN", _size(batch, config), False, False, made, dtype, least_rounds=5)


def _size(batch: int, config: Config) -> str:
    return f"({batch}, 3, {config.image_size}x{config.image_size})"


def training(case: Case, config: Config, batch: int, device: torch.device) -> Contest:
    """A step of the trainer: forward, objective, backward, Adam, and SGD for the fusion."""
    images, labels = _faces(config, batch, device)

    def begin(assemble: Callable[[Config], Assembly]) -> Callable[[], Results]:
        model, objective = assemble(config)
        step = TrainingStep(model, objective.eval()).to(device)  # in evaluation mode, negatives are fixed
        step.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types Module.to without it
        fusion = [] if model.fusion is None else list(model.fusion.parameters())
        others = [p for p in step.parameters() if all(p is not weight for weight in fusion)]
        optimizers = [torch.optim.Adam(others, lr=config.lr), torch.optim.SGD(fusion, lr=config.fusion_lr)]

        def train() -> Results:
            torch.manual_seed(0)  # for dropout
            for optimizer in optimizers:
                optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == torch.bfloat16):
                total, _ = step(images, labels)
            total.backward()
            for optimizer in optimizers:
                optimizer.step()
            if case.dtype == torch.bfloat16:  # gradients of a deep network are mostly rounding errors there
                return [total]
            return [total, *(cast("Tensor", p.grad) for p in step.parameters())]

        return train

    def compare(assemble: Callable[[Config], Assembly]) -> Results:
        """Return loss and gradients in float64, since in float32 rounding flips some units of the critics."""
        model, objective = assemble(config)
        model.double().to(device)
        objective.double().eval().to(device)
        torch.manual_seed(0)
        inputs = normalize(images).double()
        features = model(inputs, reconstruct=model.reconstructs)
        total = objective(features, inputs, labels).total
        total.backward()
        parameters = (*model.parameters(), *objective.parameters())
        return [total, *(cast("Tensor", parameter.grad) for parameter in parameters)]

    return _contest(begin, case, compare if case.dtype == torch.float32 else None)


def inference(case: Case, config: Config, batch: int, device: torch.device) -> Contest:
    """The scores of images."""
    images, _ = _faces(config, batch, device)

    def begin(assemble: Callable[[Config], Assembly]) -> Callable[[], Results]:
        model = assemble(config)[0].eval().to(device)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch types Module.to without it

        def infer() -> Results:
            autocast = torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == torch.bfloat16)
            with torch.no_grad(), autocast:
                return [model(normalize(images)).logits]

        return infer

    return _contest(begin, case)


def assemble_ours(config: Config) -> Assembly:
    """Return the example's model and objective."""
    return cast("Assembly", build(config, CELEBA_ATTRIBUTES))  # the setting's model is BLAN


def assemble_plain(config: Config) -> Assembly:
    """Return model and objective with hand-written forms of every RDAM and every LMIM loss."""
    model, objective = assemble_ours(config)
    for level, ours in enumerate(cast("Sequence[RDAM]", model.joins)):
        plain = peers.PlainRDAM(ours.channels, ours.channel.fc1.out_features, bias=True)
        peers.adopt(plain, ours)
        model.joins[level] = plain
    losses = cast("MutualInformation", objective.terms["lmim"]).losses
    for level, loss in enumerate(cast("Sequence[LMIMLoss]", losses)):
        losses[level] = _LiteralLMIM(loss.critic)
    return model, objective


def assemble_bare(config: Config) -> Assembly:
    """Return model and objective without LMIM and gates: RDAM is reduced to its convolution and its sum."""
    model, objective = assemble_ours(config)
    for level, ours in enumerate(cast("Sequence[RDAM]", model.joins)):
        model.joins[level] = _Ungated(ours.conv)
    return model, Objective([term for name, term in objective.terms.items() if name != "lmim"])


class _LiteralLMIM(nn.Module):
    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, local_features: Tensor, global_features: Tensor) -> Tensor:
        return peers.literal_lmim_loss(local_features, global_features, *self.critic.parameters())


class _Ungated(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, encoder_features: Tensor, decoder_features: Tensor) -> Tensor:
        joined: Tensor = self.conv(torch.cat([encoder_features, decoder_features], 1))
        return joined + encoder_features


class _Begun:
    """A step built at its first call, so that a process that measures one model does not hold the others."""

    def __init__(self, begin: Callable[[], Callable[[], Results]]) -> None:
        self.begin = begin
        self.step: Callable[[], Results] | None = None

    def __call__(self) -> Results:
        if self.step is None:
            self.step = self.begin()
        return self.step()


def _contest(
    begin: Callable[[Callable[[Config], Assembly]], Callable[[], Results]],
    case: Case,
    compare: Callable[[Callable[[Config], Assembly]], Results] | None = None,
) -> Contest:
    ours, plain = (None if compare is None else partial(compare, a) for a in (assemble_ours, assemble_plain))
    contenders = [
        Contender("ours", _Begun(partial(begin, assemble_ours)), compared=ours),
        Contender("plain forms", _Begun(partial(begin, assemble_plain)), compared=plain),
        Contender("without LMIM and gates", _Begun(partial(begin, assemble_bare)), computes_less=True),
    ]
    return Contest(contenders, tolerances=TOLERANCES[case.dtype])


def _faces(config: Config, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return random uint8 images, like the loader's, and random labels."""
    generator = torch.Generator().manual_seed(0)
    shape = batch, 3, config.image_size, config.image_size
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 2, (batch, len(CELEBA_ATTRIBUTES)), generator=generator)
    return images.to(device), labels.to(device)
