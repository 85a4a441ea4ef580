"""The methods of training an encoder: Deep InfoMax, an autoencoder, labels, or none."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from typing import Literal, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blan_layers import ConcatConvCritic, DeepInfoMaxLoss, DotProductCritic
from deep_infomax.encoder import MAP_SIZE, Decoder, Encoder
from deep_infomax.faces import Faces
from shared.probe import label_weights, weighted_cross_entropy
from shared.program import UserError

InfoMaxName: TypeAlias = Literal[
    "local-infonce", "local-infonce-prior", "local-jsd", "local-jsd-prior", "global-jsd", "global-jsd-prior"
]
UnlabelledName: TypeAlias = Literal[InfoMaxName, "autoencoder", "random"]
WayName: TypeAlias = Literal[UnlabelledName, "labels"]

BATCH, LEARNING_RATE, CRITIC = 64, 1e-3, 128


def _local_infonce(encoder: Encoder, gamma: float = 0.0) -> DeepInfoMaxLoss:
    critic = DotProductCritic(encoder.width, encoder.dimensions, hidden_channels=CRITIC)
    return DeepInfoMaxLoss(encoder.width, encoder.dimensions, gamma=gamma, objective="infonce", local_critic=critic)


def _local_jsd(encoder: Encoder, gamma: float = 0.0) -> DeepInfoMaxLoss:
    critic = ConcatConvCritic(encoder.width, encoder.dimensions, hidden_channels=CRITIC)
    return DeepInfoMaxLoss(encoder.width, encoder.dimensions, gamma=gamma, negatives="shift", local_critic=critic)


def _global_jsd(encoder: Encoder, gamma: float = 0.0) -> DeepInfoMaxLoss:
    return DeepInfoMaxLoss(
        encoder.width,
        encoder.dimensions,
        map_size=(MAP_SIZE, MAP_SIZE),
        alpha=1.0,
        beta=0.0,
        gamma=gamma,
        negatives="shift",
    )


INFOMAX: dict[InfoMaxName, Callable[[Encoder], DeepInfoMaxLoss]] = {
    "local-infonce": _local_infonce,
    "local-infonce-prior": partial(_local_infonce, gamma=0.1),
    "local-jsd": _local_jsd,
    "local-jsd-prior": partial(_local_jsd, gamma=0.1),
    "global-jsd": _global_jsd,
    "global-jsd-prior": partial(_global_jsd, gamma=1.0),
}
"""Configurations of Deep InfoMax; those of JSD with a prior weight their terms like the paper's two models."""

TITLES: dict[WayName, str] = {
    "local-infonce": "Deep InfoMax, local InfoNCE",
    "local-infonce-prior": "Deep InfoMax, local InfoNCE, prior",
    "local-jsd": "Deep InfoMax, local JSD",
    "local-jsd-prior": "Deep InfoMax, local JSD, prior",
    "global-jsd": "Deep InfoMax, global JSD",
    "global-jsd-prior": "Deep InfoMax, global JSD, prior",
    "autoencoder": "autoencoder",
    "labels": "labelled faces only",
    "random": "random weights",
}


class TrainingError(UserError):
    """A training that failed."""


class Recipe(NamedTuple):
    """The settings that all trainings share."""

    size: int
    """Side of the images in pixels."""
    width: int
    """Channels of the encoder's map."""
    dimensions: int
    """Width of the encoder's summary."""
    epochs: int
    """Passes over the unlabelled faces."""
    steps: int
    """Training steps on labelled faces."""


class InfoMax(nn.Module):
    """The Deep InfoMax loss of an encoder's map and summary."""

    def __init__(self, encoder: Encoder, loss: DeepInfoMaxLoss) -> None:
        super().__init__()
        self.encoder, self.loss = encoder, loss

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss."""
        return self.loss(*self.encoder(images))


class Autoencoder(nn.Module):
    """Mean squared error of images decoded from the encoder's summaries."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, Decoder(encoder)

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss."""
        return F.mse_loss(self.decoder(self.encoder(images).summary), images)


class Classifier(nn.Module):
    """Weighted cross entropy of attributes that a linear layer predicts from the encoder's summaries."""

    def __init__(self, encoder: Encoder, attributes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dimensions, attributes)

    def forward(self, images: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Return the loss."""
        return weighted_cross_entropy(self.head(self.encoder(images).summary), labels, weights).mean()


def encoders(way: WayName, recipe: Recipe, seed: int, faces: Tensor, labelled: Sequence[Faces]) -> Iterator[Encoder]:
    """Yield the encoder of a method for each set of labelled faces; without labels it is the same for all sets.

    Args:
        way: The training method.
        recipe: The settings that all methods share.
        seed: Seed of the initial weights, which are the same for all methods, and of the batches.
        faces: Unlabelled images.
        labelled: Sets of labelled faces.

    Raises:
        TrainingError: A loss is not finite.
    """
    try:
        if way == "labels":
            yield from (_train_with_labels(recipe, seed, known) for known in labelled)
        else:
            yield from repeat(_train_without_labels(way, recipe, seed, faces), len(labelled))
    except FloatingPointError as error:
        raise TrainingError(
            f"compare: losses must stay finite, got {error} from {way}, seed {seed}. Leave it out of --ways."
        ) from None


def minimise(objective: nn.Module, data: Sequence[Tensor], epochs: int) -> list[float]:
    """Train an objective on shuffled batches of the data, and return the mean loss of each epoch.

    Raises:
        FloatingPointError: The loss is not finite.
    """
    optimizer = torch.optim.Adam(objective.parameters(), LEARNING_RATE)
    objective.train()
    means = []
    for _ in range(epochs):
        total = torch.zeros(())
        batches = _batches(len(data[0]))
        for batch in batches:
            loss = objective(*(part[batch] for part in data))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        means.append(total.item() / len(batches))
        if not math.isfinite(means[-1]):
            raise FloatingPointError(means[-1])
    return means


def _train_without_labels(way: UnlabelledName, recipe: Recipe, seed: int, faces: Tensor) -> Encoder:
    encoder = _start(recipe, seed)
    if way == "autoencoder":
        minimise(Autoencoder(encoder), [faces], recipe.epochs)
    elif way != "random":
        minimise(InfoMax(encoder, INFOMAX[way](encoder)), [faces], recipe.epochs)
    return encoder


def _train_with_labels(recipe: Recipe, seed: int, known: Faces) -> Encoder:
    encoder = _start(recipe, seed)
    epochs = math.ceil(recipe.steps / len(_batches(len(known.images))))
    minimise(Classifier(encoder, known.labels.shape[1]), [*known, label_weights(known.labels)], epochs)
    return encoder


def _start(recipe: Recipe, seed: int) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(recipe.size, recipe.width, recipe.dimensions)


def _batches(count: int) -> Tensor:
    """Return shuffled indices (batches, batch size), without those that do not fill a batch."""
    size = min(BATCH, count)
    return torch.randperm(count)[: count // size * size].view(-1, size)
