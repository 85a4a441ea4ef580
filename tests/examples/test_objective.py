import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from blan_facial.config import PRESETS, Config
from blan_facial.data.faces import UNKNOWN
from blan_facial.network.baselines import DomainBalancedError
from blan_facial.network.builder import build as build_run
from blan_facial.network.model import Features
from blan_facial.network.objective import (
    Classification,
    CrossEntropy,
    Fusion,
    MutualInformation,
    Objective,
    Reconstruction,
)

TINY = Config(image_size=64, width=4, blocks=(1, 1, 1, 1), summary_channels=8, critic_channels=6)
ATTRIBUTES = ("Male", "Smiling", "Young")


def build(dtype=torch.float32, **options):
    """A tiny model, its objective, and a batch of four."""
    model, objective = (module.to(dtype) for module in build_run(replace(TINY, **options), ATTRIBUTES))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 64, generator=generator, dtype=dtype)
    labels = torch.randint(0, 2, (4, 3), generator=generator)
    return model, objective, images, labels


def run(model, objective, images, labels):
    return objective(model(images, reconstruct=model.reconstructs), images, labels)


def literal_cross_entropy(scores, labels):
    """Eq. 4 averaged over the batch, one attribute of one image after another."""
    total = 0.0
    for image, row in zip(scores, labels, strict=True):
        for attribute, label in zip(image, row, strict=True):
            total -= (attribute[label].exp() / attribute.exp().sum()).log()
    return total / len(scores)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equals_equation_8(reduction):
    weights = {"alpha": 0.3, "beta": 0.7, "gamma": 1.9}
    model, objective, images, labels = build(torch.float64, attribute_reduction=reduction, **weights)
    model.eval(), objective.eval()
    features = model(images, reconstruct=True)
    total, parts = objective(features, images, labels)
    scale = 1 if reduction == "sum" else 1 / 3
    cls = [scale * literal_cross_entropy(scores, labels) for scores in features.scores]
    lmim = [
        loss(a, t)
        for loss, a, t in zip(objective.terms["lmim"].losses, features.attended, features.summaries, strict=True)
    ]
    rec = ((features.reconstruction - images) ** 2).mean()
    fusion = scale * literal_cross_entropy(features.fused, labels)
    literal = sum(c + 0.3 * m for c, m in zip(cls, lmim, strict=True)) + 0.7 * rec + 1.9 * fusion
    for actual, expected in (
        (total, literal),
        (parts["classification"], sum(cls)),
        (parts["lmim"], sum(lmim)),
        (parts["reconstruction"], rec),
        (parts["fusion"], fusion),
        (torch.stack([parts[f"cls_AC{i}"] for i in (1, 2, 3, 4)]), torch.stack(cls)),
        (torch.stack([parts[f"lmim_AC{i}"] for i in (1, 2, 3, 4)]), torch.stack(lmim)),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 3)])
def test_losses_are_means_over_known_labels(reduction, divisor):
    objective = Objective([Classification(CrossEntropy(reduction))])
    scores = torch.tensor([[[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]], [[0.0, 0.0], [5.0, 0.0], [0.0, 7.0]]])[None]
    scores.requires_grad_()
    labels = torch.tensor([[1, UNKNOWN, 0], [0, UNKNOWN, UNKNOWN]])
    features = Features(scores)
    total = objective(features, torch.empty(0), labels).total
    log = math.log
    by_hand = log(1 + math.exp(-2)) + log(1 + math.exp(-3)) + log(2)  # of the three that are known
    assert total.item() == pytest.approx(by_hand / divisor)
    total.backward()
    assert scores.grad is not None
    assert (scores.grad != 0).any(-1)[0].tolist() == [[True, False, True], [True, False, False]]

    halves = [
        objective(
            features._replace(scores=scores[:, row]), torch.empty(0), labels[row], torch.tensor([1, known * 2 / 3])
        )
        for row, known in ((slice(0, 1), 2), (slice(1, 2), 1))
    ]
    assert sum(half.total.item() for half in halves) / 2 == pytest.approx(total.item())


@pytest.mark.parametrize("loss", [CrossEntropy("sum"), CrossEntropy("mean"), DomainBalancedError(3)])
def test_the_gradient_of_classification_is_that_of_the_labelled_part_alone(loss):
    torch.manual_seed(0)
    labels = torch.tensor([[1, 0, 1], [UNKNOWN] * 3, [0, 1, 1], [UNKNOWN] * 3, [UNKNOWN] * 3])
    scores = torch.randn(4, 5, 3, 2)
    has = (labels != UNKNOWN).any(1)
    terms = [Classification(loss), Fusion(0.7, loss)]
    gradients = []
    for rows in (slice(None), has):
        part = scores[:, rows].clone().requires_grad_()
        objective = Objective(terms)
        objective(Features(part, fused=part.mean(0)), torch.empty(0), labels[rows]).total.backward()
        gradients.append(part.grad)
    whole, alone = gradients
    assert not whole[:, ~has].any()
    torch.testing.assert_close(whole[:, has], alone)
    no_label = scores.clone().requires_grad_()
    objective(
        Features(no_label, fused=no_label.mean(0)), torch.empty(0), torch.full_like(labels, UNKNOWN)
    ).total.backward()
    assert not no_label.grad.any()


def test_logged_values_are_all_there_are_and_detached():
    losses = run(*build())
    logged = losses.logged()
    assert set(logged) == {
        *("total", "classification", "lmim", "reconstruction", "fusion"),
        *(f"cls_AC{i}" for i in (1, 2, 3, 4)),
        *(f"lmim_AC{i}" for i in (1, 2, 3, 4)),
    }
    assert losses.total.requires_grad
    assert not any(value.requires_grad for value in logged.values())
    assert all(value.shape == () for value in logged.values())


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"alpha": 0.0}, "lmim"),
        ({"lmim": False}, "lmim"),
        ({"beta": 0.0}, "reconstruction"),
        ({"gamma": 0.0}, "fusion"),
        ({"fusion": False}, "fusion"),
    ],
    ids=str,
)
def test_a_term_left_out_is_neither_computed_nor_shown(options, left_out):
    model, every, images, labels = build(torch.float64, dropout=0.0)
    objective = build(torch.float64, **options)[1]
    objective.load_state_dict(every.state_dict(), strict=False)
    assert bool(list(objective.parameters())) == (left_out != "lmim")
    for module in (model, every, objective):
        module.eval()
    features = model(images, reconstruct=True)
    (total, parts), (less, left) = every(features, images, labels), objective(features, images, labels)
    assert not any(name.startswith(left_out) for name in (*left, *objective.shown))
    weight = {"lmim": 0.1, "reconstruction": 0.1, "fusion": 1.0}[left_out]
    torch.testing.assert_close(less, total - weight * parts[left_out])


def test_a_new_term_is_a_class_and_shows_under_its_own_name():
    class Sparsity(Reconstruction):
        name, short = "sparsity", "sparse"

        def forward(self, features, images, labels):
            return torch.stack([a.abs().mean() for a in features.attended])

    model, _, images, labels = build()
    objective = Objective([Classification(CrossEntropy()), Sparsity(0.5)])
    total, parts = objective(model(images), images, labels)
    assert objective.shown == {"total": "loss", "classification": "cls", "sparsity": "sparse"}
    assert {"sparsity", "sparse_AC1", "sparse_AC4"} <= set(parts)
    torch.testing.assert_close(total, parts["classification"] + 0.5 * parts["sparsity"])


def test_fusion_loss_reaches_the_scores():
    model, objective, images, labels = build(dropout=0.0, lmim=False, beta=0.0)
    features = model(images)
    fusion = objective(features, images, labels).parts["fusion"]
    (gradient,) = torch.autograd.grad(fusion, features.scores, retain_graph=True)
    assert torch.all(gradient.flatten(1).abs().sum(1) > 0)
    (gradient,) = torch.autograd.grad(fusion, model.fusion.weight)
    assert gradient.abs().sum() > 0


ABLATIONS = [
    {},
    {"decoder": False},
    {"encoder_features": False},
    {"join": "concat"},
    {"join": "rar"},
    {"join": "attention-gate"},
    {"beta": 0.0},
    {"fusion": False},
    {"decoder_order": "stage-upsample"},
    {"encoder_features": False, "beta": 0.0, "fusion": False},
]


@pytest.mark.parametrize("lmim", [True, False], ids=["lmim", "no-lmim"])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_parameter_learns_whatever_is_left_out(options, lmim):
    model, objective, images, labels = build(**options, lmim=lmim)
    run(model, objective, images, labels).total.backward()
    for module in (model, objective):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
    for part in (*model.children(), *objective.terms.values()):
        gradients = [parameter.grad.abs().sum() for parameter in part.parameters()]
        assert not gradients or sum(gradients) > 0


@pytest.mark.parametrize(("options", "factor"), [({"decoder": False}, 1), ({"join": "concat"}, 2)], ids=str)
def test_ablations_give_critics_the_channels_they_see(options, factor):
    _, objective, *_ = build(**options)
    widths = [loss.critic.fc1.in_features - 8 for loss in objective.terms["lmim"].losses]
    assert widths == [4 * factor, 8 * factor, 16 * factor, 32]


def test_training_fits_a_batch():
    model, objective, images, labels = build(dropout=0.0)
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=3e-3)
    steps = []
    for _ in range(25):
        terms = run(model, objective, images, labels)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        steps.append(terms.logged())
    first, last = steps[0], steps[-1]
    assert last["lmim"] < 0.95 * first["lmim"]
    assert last["reconstruction"] < 0.9 * first["reconstruction"]
    assert last["fusion"] < 0.1 * first["fusion"]
    assert model(images).logits.argmax(-1).equal(labels)


def test_paper_configuration_trains_a_batch_of_two():
    model, objective = build_run(PRESETS["celeba"], tuple(map(str, range(40))))
    images, labels = torch.randn(2, 3, 256, 256), torch.randint(0, 2, (2, 40))
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=1e-6)
    before = model.encoder.conv1.weight.detach().clone()
    terms = run(model, objective, images, labels)
    terms.total.backward()
    optimizer.step()
    assert all(torch.isfinite(value) for value in terms.logged().values())
    assert all(p.grad is not None for p in (*model.parameters(), *objective.parameters()))
    assert not torch.equal(model.encoder.conv1.weight, before)


def test_losses_are_float32_under_autocast():
    model, objective, images, labels = build(dropout=0.0)
    model.eval(), objective.eval()
    expected = run(model, objective, images, labels).logged()
    with torch.autocast("cpu", torch.bfloat16):
        features = model(images, reconstruct=True)
        assert features.scores.dtype == features.reconstruction.dtype == torch.bfloat16
        actual = objective(features, images, labels).logged()
    for name, value in actual.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.1)


def test_compiles_into_one_graph():
    model, objective, images, labels = build(torch.float64)
    model.eval(), objective.eval()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    actual, expected = (function(model, objective, images, labels).total for function in (compiled, run))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Reconstruction(-0.1),
            "Reconstruction: weight must be a finite number of at least 0, got -0.1. Leave the term out to drop it.",
        ),
        (
            lambda: MutualInformation(math.inf, (4,), 8),
            "MutualInformation: weight must be a finite number of at least 0, got inf. Leave the term out to drop it.",
        ),
        (
            lambda: CrossEntropy("max"),
            "CrossEntropy: reduction must be one of ('sum', 'mean'), got 'max'. Choose one of them.",
        ),
        (lambda: Objective([]), "Objective: needs terms with different names, got []. Name each once."),
        (
            lambda: Objective([Reconstruction(), Reconstruction()]),
            "Objective: needs terms with different names, got ['reconstruction', 'reconstruction']. Name each once.",
        ),
    ],
)
def test_impossible_objectives_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            torch.zeros(4, 3, dtype=torch.uint8),
            TypeError,
            "Objective: labels must be torch.int64, got torch.uint8. Convert them with .long().",
        ),
        (
            torch.zeros(4, 5, dtype=torch.int64),
            ValueError,
            "Objective: labels must have the scores' shape (B, N) = (4, 3), got (4, 5). "
            "Give one column per attribute of the model.",
        ),
    ],
    ids=["dtype", "shape"],
)
def test_wrong_labels_are_refused(labels, error, message):
    model, objective, images, _ = build()
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        run(model, objective, images, labels)


def test_missing_features_are_refused():
    model, _, images, labels = build(fusion=False)
    for term, message in (
        (Reconstruction(), "Reconstruction: needs a reconstruction, got features without one. Call the network with "),
        (Fusion(1.0, CrossEntropy()), "Fusion: needs fused scores, got features without them. Give the network a "),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            Objective([term])(model(images), images, labels)


def test_a_batch_of_one_has_no_negatives():
    model, objective, images, labels = build()
    model.eval()
    with pytest.raises(ValueError, match="got a batch of 1"):
        run(model, objective, images[:1], labels[:1])


def test_balanced_labels_weigh_the_same_in_all() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 0], [0, -1]], dtype=np.int8)
    loss = CrossEntropy("sum", balanced=2)
    loss.balance(labels)
    assert loss.weights is not None
    torch.testing.assert_close(loss.weights, torch.tensor([[4 / 6, 1.0], [2.0, 1.0]]))
    scores, plain = torch.randn(3, 4, 2, 2), CrossEntropy("sum")
    targets = torch.from_numpy(labels).long()
    weights = torch.where(targets == 1, loss.weights[1], loss.weights[0])
    each = torch.stack(
        [
            torch.stack([plain(scores[:, i : i + 1, n : n + 1], targets[i : i + 1, n : n + 1]) for n in range(2)], -1)
            for i in range(4)
        ],
        1,
    )
    torch.testing.assert_close(loss(scores, targets), (each * weights).sum((-2, -1)) * 2 / 7)  # of 7 known labels
    assert "weights" in loss.state_dict()
    assert not plain.state_dict()
