"""A model that answers for images, with the level that decided each answer."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from blan_facial.data.loading import normalize
from blan_facial.network.model import Network
from blan_facial.training.scaling import Scaling


class Answer(NamedTuple):
    """A model's answer for an attribute of an image."""

    attribute: str
    probability: float
    """Probability that the image has the attribute."""
    predicted: bool
    """Whether the probability is above the attribute's threshold."""
    level: str | None
    """The level that contributed most to the answer; None for a model without levels."""
    contributions: dict[str, float]
    """Contribution of each level to the log-odds of the attribute; {} for a model without levels."""
    threshold: float = 0.5
    """The probability above which it is predicted."""
    shift: float = 0.0
    """The shift that calibration adds to the log-odds, apart from the contributions."""


class Predictor:
    """A model that answers for images.

    The log-odds of the prediction are a sum over the levels, since fusion is linear (Eq. 6):

        fused[n, 1] - fused[n, 0] = sum_i (W[i, n] + W[K+1, n]) (s_i[n, 1] - s_i[n, 0]),

    and without fusion the same with weights of 1. Both sides are multiplied by the scale of the attribute, and its
    shift is added separately. Each term is the contribution of its level. The decisive level is the one with the
    largest term for a yes and with the smallest for a no. It explains this answer for this image, whereas
    ``metrics.json`` names the level that is most accurate for the attribute on average.

    Args:
        model: The model, in evaluation mode.
        attributes: The N attributes in the order of its scores.
        asked: Attributes to answer, in the order of the answers; None for all.
        threshold: Probability above which the answer is yes, or one for each of the N attributes.
        scaling: Calibration of the log-odds; None leaves them unchanged.
        device: Device for the model.
    """

    def __init__(
        self,
        model: Network,
        attributes: Sequence[str],
        *,
        asked: Sequence[str] | None = None,
        threshold: float | Sequence[float] = 0.5,
        scaling: Scaling | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = model.to(device)
        self.device = device
        self.asked = tuple(attributes if asked is None else asked)
        self.places = [attributes.index(name) for name in self.asked]
        thresholds = torch.as_tensor(threshold, dtype=torch.float64).expand(len(attributes))
        self.cuts = thresholds.logit()
        self.thresholds = [thresholds[place].item() for place in self.places]
        scale, shift = (1.0, 0.0) if scaling is None else scaling[:2]
        self.scale, self.shift = (
            torch.as_tensor(values, dtype=torch.float64).expand(len(attributes)) for values in (scale, shift)
        )
        self.shifts = [self.shift[place].item() for place in self.places]

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> list[list[Answer]]:
        """Answer for images, uint8 (B, S, S, 3)."""
        inputs = normalize(torch.from_numpy(images).movedim(-1, 1).to(self.device))
        output = self.model(inputs)
        # In float64 on the CPU, since not all accelerators support it.
        odds = output.logits.cpu().double().diff(dim=-1)[..., 0] * self.scale + self.shift  # (B, N)
        terms = (
            output.scores.cpu().double().diff(dim=-1)[..., 0][: len(self.model.level_names)] * self.scale
        )  # (K, B, N)
        if self.model.fusion is not None:
            weight = self.model.fusion.weight.cpu().double()
            terms = terms * (weight[:-1] + weight[-1:])[:, None]
        predicted = odds > self.cuts
        values = zip(
            odds.sigmoid()[:, self.places].tolist(),
            predicted[:, self.places].tolist(),
            terms.permute(1, 2, 0)[:, self.places].tolist(),
            strict=True,
        )
        return [
            [self._answer(*answer) for answer in zip(self.asked, *of_image, self.thresholds, self.shifts, strict=True)]
            for of_image in values
        ]

    def _answer(
        self,
        attribute: str,
        probability: float,
        predicted: bool,
        terms: Sequence[float],
        threshold: float,
        shift: float,
    ) -> Answer:
        contributions = dict(zip(self.model.level_names, terms, strict=True))
        decide = max if predicted else min
        level = decide(contributions, key=contributions.__getitem__) if contributions else None
        return Answer(attribute, probability, predicted, level, contributions, threshold, shift)
