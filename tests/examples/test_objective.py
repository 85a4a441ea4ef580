import math
import re

import pytest
import torch

from blan_facial.data.faces import UNKNOWN
from blan_facial.network.model import BLAN, BLANFeatures
from blan_facial.network.objective import BLANObjective

TINY = {"image_size": 64, "width": 4, "blocks": (1, 1, 1, 1), "summary_channels": 8}
ATTRIBUTES = 3


def build(options=None, dtype=torch.float32, **objective_options):
    """A tiny model, an objective of the terms that it can have, and a batch of four."""
    torch.manual_seed(0)
    model = BLAN(ATTRIBUTES, **TINY, **(options or {})).to(dtype)
    terms = {"reconstruction": model.reconstructs, "fusion": model.fusion is not None, "critic_channels": 6}
    objective = BLANObjective(model.local_channels, model.summary_channels, **{**terms, **objective_options}).to(dtype)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 64, 64, generator=generator, dtype=dtype)
    labels = torch.randint(0, 2, (4, ATTRIBUTES), generator=generator)
    return model, objective, images, labels


def run(model, objective, images, labels):
    return objective(model.forward_features(images, reconstruct=model.reconstructs), images, labels)


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
    model, objective, images, labels = build(dtype=torch.float64, attribute_reduction=reduction, **weights)
    model.eval(), objective.eval()
    features = model.forward_features(images, reconstruct=True)
    terms = objective(features, images, labels)
    scale = 1 if reduction == "sum" else 1 / ATTRIBUTES
    cls = [scale * literal_cross_entropy(scores, labels) for scores in features.scores]
    lmim = [loss(a, t) for loss, a, t in zip(objective.lmim, features.attended, features.summaries, strict=True)]
    rec = ((features.reconstruction - images) ** 2).mean()
    fusion = scale * literal_cross_entropy(features.fused, labels)
    total = sum(c + 0.3 * m for c, m in zip(cls, lmim, strict=True)) + 0.7 * rec + 1.9 * fusion
    for actual, expected in (
        (terms.total, total),
        (terms.classification, sum(cls)),
        (terms.lmim, sum(lmim)),
        (terms.reconstruction, rec),
        (terms.fusion, fusion),
        (torch.stack([terms.levels[f"cls_AC{i}"] for i in (1, 2, 3, 4)]), torch.stack(cls)),
        (torch.stack([terms.levels[f"lmim_AC{i}"] for i in (1, 2, 3, 4)]), torch.stack(lmim)),
    ):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 2), ("mean", 6)])
def test_an_unknown_label_has_no_term_and_changes_no_other(reduction, divisor):
    objective = BLANObjective(
        (1,) * 4, 1, attribute_reduction=reduction, lmim=False, reconstruction=False, fusion=False
    )
    scores = torch.tensor([[[0.0, 2.0], [1.0, 0.0], [3.0, 0.0]], [[0.0, 0.0], [5.0, 0.0], [0.0, 7.0]]])[None]
    scores.requires_grad_()
    labels = torch.tensor([[1, UNKNOWN, 0], [0, UNKNOWN, UNKNOWN]])
    features = BLANFeatures((), (), scores, None, None, None)
    total = objective(features, torch.empty(0), labels).total
    log = math.log
    by_hand = log(1 + math.exp(-2)) + log(1 + math.exp(-3)) + log(2)  # of the three that are known
    assert total.item() == pytest.approx(by_hand / divisor)
    total.backward()
    assert scores.grad is not None
    assert (scores.grad != 0).any(-1)[0].tolist() == [[True, False, True], [True, False, False]]

    halves = [
        objective(features._replace(scores=scores[:, row]), torch.empty(0), labels[row])
        for row in (slice(0, 1), slice(1, 2))
    ]
    assert sum(half.total.item() for half in halves) / 2 == pytest.approx(total.item())


def test_logged_values_are_all_there_are_and_detached():
    terms = run(*build())
    logged = terms.logged()
    assert list(logged) == [
        *("total", "classification", "lmim", "reconstruction", "fusion"),
        *(f"cls_AC{i}" for i in (1, 2, 3, 4)),
        *(f"lmim_AC{i}" for i in (1, 2, 3, 4)),
    ]
    assert terms.total.requires_grad
    assert not any(value.requires_grad for value in logged.values())
    assert all(value.shape == () for value in logged.values())


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({"alpha": 0.0}, "lmim"),
        ({"lmim": False}, "lmim"),
        ({"beta": 0.0}, "reconstruction"),
        ({"reconstruction": False}, "reconstruction"),
        ({"gamma": 0.0}, "fusion"),
        ({"fusion": False}, "fusion"),
    ],
    ids=str,
)
def test_a_term_left_out_is_neither_computed_nor_logged(options, left_out):
    whole = build(dtype=torch.float64)
    objective = build(dtype=torch.float64, **options)[1]
    if left_out != "lmim":
        objective.load_state_dict(whole[1].state_dict())
    assert bool(list(objective.parameters())) == (left_out != "lmim")
    for module in (whole[0], whole[1], objective):
        module.eval()
    every, terms = run(*whole), run(whole[0], objective, *whole[2:])
    assert getattr(terms, left_out) is None
    assert not any(name.startswith(left_out) for name in terms.logged())
    weight = {"lmim": 0.1, "reconstruction": 0.1, "fusion": 1.0}[left_out]
    torch.testing.assert_close(terms.total, every.total - weight * getattr(every, left_out))


def test_fusion_loss_reaches_the_scores():
    model, objective, images, labels = build({"dropout": 0.0}, lmim=False, reconstruction=False)
    features = model.forward_features(images)
    terms = objective(features, images, labels)
    (gradient,) = torch.autograd.grad(terms.fusion, features.scores, retain_graph=True)
    assert torch.all(gradient.flatten(1).abs().sum(1) > 0)
    (gradient,) = torch.autograd.grad(terms.fusion, model.fusion.weight)
    assert gradient.abs().sum() > 0


ABLATIONS = [
    {},
    {"decoder": False},
    {"encoder_features": False},
    {"rdam": False},
    {"reconstruction": False},
    {"fusion": False},
    {"decoder": False, "fusion": False},
    {"encoder_features": False, "reconstruction": False, "fusion": False},
]


@pytest.mark.parametrize("lmim", [True, False], ids=["lmim", "no-lmim"])
@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_every_parameter_learns_whatever_is_left_out(options, lmim):
    model, objective, images, labels = build(options, lmim=lmim)
    run(model, objective, images, labels).total.backward()
    for module in (model, objective):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
    parts = [*model.children(), *objective.lmim] if lmim else [*model.children()]
    for part in parts:
        gradients = [parameter.grad.abs().sum() for parameter in part.parameters()]
        assert not gradients or sum(gradients) > 0


@pytest.mark.parametrize("options", ABLATIONS[1:4], ids=str)
def test_ablations_give_critics_the_channels_they_see(options):
    model, objective, *_ = build(options)
    assert [loss.critic.fc1.in_features for loss in objective.lmim] == [c + 8 for c in model.local_channels]


def test_training_fits_a_batch():
    model, objective, images, labels = build({"dropout": 0.0})
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=3e-3)
    steps = []
    for _ in range(25):
        terms = run(model, objective, images, labels)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        steps.append(terms)
    first, last = steps[0], steps[-1]
    assert last.lmim < 0.95 * first.lmim
    assert last.reconstruction < 0.9 * first.reconstruction
    assert last.fusion < 0.1 * first.fusion
    assert model(images).logits.argmax(-1).equal(labels)


def test_paper_configuration_trains_a_batch_of_two():
    torch.manual_seed(0)
    model = BLAN(40)
    objective = BLANObjective(model.local_channels, model.summary_channels)
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
    model, objective, images, labels = build({"dropout": 0.0})
    model.eval(), objective.eval()
    expected = run(model, objective, images, labels).logged()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.forward_features(images, reconstruct=True)
        assert features.scores.dtype == features.reconstruction.dtype == torch.bfloat16
        actual = objective(features, images, labels).logged()
    for name, value in actual.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.1)


def test_reset_parameters_draws_the_critics_anew():
    objective = build()[1]
    before = [parameter.detach().clone() for parameter in objective.parameters() if parameter.ndim > 1]
    objective.reset_parameters()
    after = [parameter for parameter in objective.parameters() if parameter.ndim > 1]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_compiles_into_one_graph():
    model, objective, images, labels = build(dtype=torch.float64)
    model.eval(), objective.eval()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    actual, expected = (function(model, objective, images, labels).total for function in (compiled, run))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "BLANObjective: alpha must not be negative, got -0.1. Use 0 to drop its term."),
        ({"beta": -1}, "BLANObjective: beta must not be negative, got -1. Use 0 to drop its term."),
        ({"gamma": float("nan")}, "BLANObjective: gamma must not be negative, got nan. Use 0 to drop its term."),
        (
            {"attribute_reduction": "max"},
            "BLANObjective: attribute_reduction must be one of ('sum', 'mean'), got 'max'. Choose one of them.",
        ),
        (
            {"local_channels": (4, 8)},
            "BLANObjective: local_channels must name 4 levels, got (4, 8). Pass BLAN.local_channels.",
        ),
    ],
    ids=str,
)
def test_impossible_objectives_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BLANObjective(**{"local_channels": (4, 8, 16, 32), "summary_channels": 8, **options})


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            torch.zeros(4, 3, dtype=torch.uint8),
            TypeError,
            "BLANObjective: labels must be torch.int64, got torch.uint8. Convert them with .long().",
        ),
        (
            torch.zeros(4, 5, dtype=torch.int64),
            ValueError,
            "BLANObjective: labels must have the scores' shape (B, N) = (4, 3), got (4, 5). "
            "Give one column to each attribute of the model.",
        ),
    ],
    ids=["dtype", "shape"],
)
def test_wrong_labels_are_refused(labels, error, message):
    model, objective, images, _ = build()
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        run(model, objective, images, labels)


def test_missing_features_are_refused():
    model, objective, images, labels = build()
    message = (
        "BLANObjective: beta=0.1 needs a reconstruction, got features without one. Call "
        "forward_features(images, reconstruct=True), or build the objective with reconstruction=False."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        objective(model.forward_features(images), images, labels)
    model, objective, images, labels = build({"fusion": False}, fusion=True)
    message = (
        "BLANObjective: gamma=1.0 needs fused scores, got features without them. "
        "Build the objective with fusion=False for a model without fusion."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        run(model, objective, images, labels)


def test_a_batch_of_one_has_no_negatives():
    model, objective, images, labels = build()
    model.eval()
    with pytest.raises(ValueError, match="got a batch of 1"):
        run(model, objective, images[:1], labels[:1])
