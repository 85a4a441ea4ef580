import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from blan_facial.network.model import BLAN, parameter_table
from blan_facial.network.objective import BLANObjective

TINY = {"image_size": 64, "width": 4, "blocks": (1, 1, 1, 1), "summary_channels": 8}


def tiny(attributes=3, **options):
    torch.manual_seed(0)
    return BLAN(attributes, **{**TINY, **options})


def images(batch=2, size=64):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def on_meta(**options):
    with torch.device("meta"):
        return BLAN(40, **options)


def recorded(model, *names):
    """Make the named submodules keep their outputs; return where they keep them."""
    outputs = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: outputs.setdefault(name, output)
        )
    return outputs


class TestPaperConfiguration:
    """Tables 1 and 2 at the paper's size.

    Parameters, by hand (each batch norm has 2 a channel; convolutions before one have no bias):

    - Encoder: torchvision's ResNet-34 has 21,797,672, its head 512 * 1000 + 1000 = 513,000.
    - Decoder: a stage C -> c of n blocks has 9 C c + 9 c c + C c + 6 c, and n - 1 times 18 c c + 4 c. 512 -> 256 x6:
      1,902,080 + 5 * 1,180,672 = 7,805,440; 256 -> 128 x4: 475,904 + 3 * 295,424 = 1,362,176; 128 -> 64 x3:
      119,168 + 2 * 73,984 = 267,136; transposed convolution: 64 * 3 * 16 + 3 = 3,075.
    - RDAM, C channels: convolution 2 C C k k + C, MLP 2 C h + h + C with h = C / 16, spatial convolution 2 * 49.
      k = 3: 74,470 + 297,322 + 1,188,466 = 1,560,258. k = 1 has 16 C C fewer: 16 * (64^2 + 128^2 + 256^2) = 1,376,256.
    - Classifiers: FC1 4096 * 512 + 512 and FC2 512 * 80 + 80 are 2,138,704 each; the convolutions and norms are
      51,200 + 64 + 512 + 32, 73,728 + 128 + 1,024 + 32, 294,912 + 256 + 8,192 + 128 and
      1,179,648 + 512 + 65,536 + 512, together 1,676,416.
    - Fusion: 5 * 40.
    - Critics, 512 hidden: (C + 512) * 512 + 512 at C = 64, 128, 256, 512, and 4 * (512 * 512 + 512 + 512 + 1).
    """

    ENCODER = 21_284_672
    DECODER = 9_437_827
    RDAM = 1_560_258
    CLASSIFIERS = 10_231_232
    CRITICS = 2_594_820

    def test_output_sizes(self):
        torch.manual_seed(0)
        model = BLAN(40).eval()
        names = [f"classifiers.{i}.{unit}" for i in range(4) for unit in ("bn1", "bn2")]
        outputs = recorded(model, "encoder", "decoder", *names)
        with torch.no_grad():
            features = model.forward_features(images(1, 256), reconstruct=True, maps=True)
        ladder = [(1, 64, 64, 64), (1, 128, 32, 32), (1, 256, 16, 16), (1, 512, 8, 8)]
        assert [tuple(e.shape) for e in outputs["encoder"]] == ladder
        assert [tuple(d.shape) for d in outputs["decoder"]] == ladder[:3]
        assert [tuple(a.shape) for a in features.attended] == ladder
        assert [tuple(outputs[name].shape[1:]) for name in names] == [
            *((32, 16, 16), (16, 16, 16)),
            *((64, 16, 16), (16, 16, 16)),
            *((128, 8, 8), (64, 8, 8)),
            *((256, 4, 4), (256, 4, 4)),
        ]
        assert [classifier.fc1.in_features for classifier in model.classifiers] == [4096] * 4
        assert [tuple(t.shape) for t in features.summaries] == [(1, 512)] * 4
        assert features.scores.shape == (4, 1, 40, 2)
        assert features.fused.shape == (1, 40, 2)
        assert features.reconstruction.shape == (1, 3, 256, 256)
        assert [tuple(m.shape) for m in features.spatial_maps] == [(1, 1, 64, 64), (1, 1, 32, 32), (1, 1, 16, 16)]

    def test_parameters(self):
        model = on_meta()
        with torch.device("meta"):
            objective = BLANObjective(model.local_channels, model.summary_channels)
        table = parameter_table(model, objective)
        assert table.rows == (
            ("encoder", self.ENCODER),
            ("decoder", self.DECODER),
            ("RDAM", self.RDAM),
            ("classifiers", self.CLASSIFIERS),
            ("fusion", 200),
            ("critics (training only)", self.CRITICS),
        )
        assert table.inference == 42_514_189 == self.ENCODER + self.DECODER + self.RDAM + self.CLASSIFIERS + 200
        assert table.training == 45_109_009 == table.inference + self.CRITICS
        assert table.paper == 38_340_000
        assert "38.34 M" in table.note

    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            ({"conv_kernel_size": 1}, -1_376_256),
            ({"decoder": False}, -DECODER - RDAM),
            ({"encoder_features": False}, -RDAM),
            # Twice the channels into the first convolutions of AC_1..AC_3.
            ({"rdam": False}, -RDAM + 51_200 + 73_728 + 294_912),
            ({"reconstruction": False}, -3_075),
            ({"fusion": False}, -200),
        ],
        ids=str,
    )
    def test_parameters_of_variants(self, options, difference):
        assert parameter_table(on_meta(**options)).inference == 42_514_189 + difference

    def test_a_part_left_out_has_no_row(self):
        parts = [part for part, _ in parameter_table(on_meta(decoder=False, fusion=False)).rows]
        assert parts == ["encoder", "classifiers"]


def test_lfwa_size():
    """224 px: AC_1 and AC_2 end at 14 x 14, AC_3 at 7 x 7, AC_4 at 4 x 4."""
    model = tiny(40, image_size=224, width=8).eval()
    features = model.forward_features(images(1, 224), reconstruct=True)
    assert [a.shape[-1] for a in features.attended] == [56, 28, 14, 7]
    assert [classifier.fc1.in_features for classifier in model.classifiers] == [2 * 196, 2 * 196, 8 * 49, 32 * 16]
    assert features.reconstruction.shape == (1, 3, 224, 224)


@settings(max_examples=8, deadline=None)
@given(steps=st.integers(1, 4), width=st.integers(1, 6), blocks=st.tuples(*[st.integers(1, 2)] * 4))
def test_any_size_width_and_blocks(steps, width, blocks):
    model = BLAN(5, image_size=32 * steps, width=width, blocks=blocks, summary_channels=3)
    x = images(2, 32 * steps)
    features = model.forward_features(x, reconstruct=True)
    assert features.reconstruction.shape == x.shape
    assert features.scores.shape == (4, 2, 5, 2)
    assert tuple(a.shape[1] for a in features.attended) == model.local_channels == tuple(width * 2**i for i in range(4))


def test_inference_keeps_to_what_leads_to_d1():
    model = tiny().eval()
    tail = recorded(model, "decoder.tail", "decoder.tail.0", "decoder.tail.1")
    model(images())
    model.forward_features(images(), maps=True)
    assert not tail
    model.forward_features(images(), reconstruct=True)
    assert len(tail) == 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_every_decoder_stage_reaches_the_scores(number):
    model = tiny().eval()
    before = model(images()).scores
    nn.init.constant_(model.decoder.get_submodule(f"stage{number}.0.bn2").bias, 3)
    changed = (model(images()).scores - before).abs().amax((1, 2, 3)) > 1e-4
    assert changed.tolist() == [level <= number for level in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("options", "join"),
    [
        ({"decoder": False}, lambda model, level, e, d: e),
        ({"encoder_features": False}, lambda model, level, e, d: d),
        ({"rdam": False}, lambda model, level, e, d: torch.cat((e, d), 1)),
        ({}, lambda model, level, e, d: model.rdam[level](e, d)),
    ],
    ids=["Enc", "Dec", "Enc+Dec", "RDAM"],
)
def test_attended_features(options, join):
    model = tiny(**options).eval()
    outputs = recorded(model, "encoder", *(() if model.decoder is None else ("decoder",)))
    features = model.forward_features(images())
    encoded, decoded = outputs["encoder"], outputs.get("decoder", (None,) * 3)
    for level in range(3):
        expected = join(model, level, encoded[level], decoded[level])
        assert torch.equal(features.attended[level], expected)
    assert torch.equal(features.attended[3], encoded[3])
    assert tuple(a.shape[1] for a in features.attended) == model.local_channels


def test_decoder_is_a_chain_of_upsampled_stages():
    model = tiny().eval()
    decoder, deepest = model.decoder, torch.randn(2, 32, 2, 2)
    double = nn.UpsamplingNearest2d(scale_factor=2)
    d3 = decoder.stage3(double(deepest))
    d2 = decoder.stage2(double(d3))
    d1 = decoder.stage1(double(d2))
    for actual, expected in zip(decoder(deepest), (d1, d2, d3), strict=True):
        assert torch.equal(actual, expected)
    deconvolution = model.decoder.tail[1]
    image = nn.functional.conv_transpose2d(double(d1), deconvolution.weight, deconvolution.bias, stride=2, padding=1)
    assert torch.equal(decoder.reconstruct(d1), image)


def test_upsampling_is_an_option_that_keeps_the_weights():
    nearest, bilinear = tiny().eval(), tiny(upsampling="bilinear").eval()
    bilinear.load_state_dict(nearest.state_dict())
    first, second = (model.forward_features(images(), reconstruct=True) for model in (nearest, bilinear))
    assert torch.equal(first.attended[3], second.attended[3])
    assert not torch.allclose(first.reconstruction, second.reconstruction, atol=1e-3)


def test_spatial_maps_gate_the_same_features():
    model = tiny().eval()
    plain, mapped = model.forward_features(images()), model.forward_features(images(), maps=True)
    assert plain.spatial_maps is None
    assert torch.equal(plain.scores, mapped.scores)
    for level, gate in enumerate(mapped.spatial_maps):
        assert gate.shape == (2, 1, *mapped.attended[level].shape[2:])
        assert 0 < gate.min() < gate.max() < 1


def test_dropout_stands_between_the_summary_and_the_scores():
    classifier = tiny(dropout=0.5).classifiers[0].eval()
    attended = torch.randn(2, 4, 16, 16)
    summary, scores = classifier(attended)
    assert summary.min() < 0
    expected = classifier.fc2(summary.relu())
    assert torch.equal(scores, torch.stack((expected[:, 0::2], expected[:, 1::2]), -1))
    classifier.dropout.train()
    dropped, other_scores = classifier(attended)
    assert torch.equal(dropped, summary)
    assert not torch.equal(other_scores, scores)


def test_prediction_is_the_fused_scores_or_their_sum():
    """At its start of 1/5 everywhere the fusion is 2/5 of the sum, so both predict the same."""
    fused, summed = tiny().eval(), tiny(fusion=False).eval()
    output = fused(images())
    assert torch.equal(output.logits, output.fused)
    torch.testing.assert_close(output.fused, 0.4 * output.scores.sum(0))
    summed.load_state_dict({name: v for name, v in fused.state_dict().items() if not name.startswith("fusion")})
    assert summed(images()).fused is None
    torch.testing.assert_close(summed(images()).logits, output.scores.sum(0))
    assert torch.all(tiny(initial_fusion_weight=0.25).fusion.weight == 0.25)


def test_rdam_options_reach_every_rdam():
    model = tiny(conv_kernel_size=1, conv_norm=nn.BatchNorm2d, conv_activation=nn.ReLU)
    for rdam in model.rdam:
        assert rdam.conv.kernel_size == (1, 1)
        assert isinstance(rdam.conv_norm, nn.BatchNorm2d)
        assert isinstance(rdam.conv_activation, nn.ReLU)


@pytest.mark.parametrize("option", [{"form": "printed"}, {"arrangement": "parallel"}], ids=str)
def test_rdam_forms_share_weights_but_not_results(option):
    plain, changed = tiny(width=32).eval(), tiny(width=32, **option).eval()
    changed.load_state_dict(plain.state_dict())
    differs = (changed(images()).scores - plain(images()).scores).abs().amax((1, 2, 3)) > 1e-3
    assert differs.tolist() == [True, True, True, False]


def test_state_dict_is_the_inference_networks():
    model = tiny()
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "encoder",
        "decoder",
        "rdam",
        "classifiers",
        "fusion",
    }
    copy = BLAN(3, **TINY)
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy.eval()(images()).logits, model.eval()(images()).logits, rtol=0, atol=0)


def test_weights_depend_on_the_seed_alone():
    first, second = tiny(), tiny()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    start = {name: value.clone() for name, value in first.state_dict().items()}
    first(images())
    torch.manual_seed(3)
    first.reset_parameters()
    torch.manual_seed(3)
    second.reset_parameters()
    again = first.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in second.state_dict().items())
    matrices = [name for name, value in start.items() if value.ndim > 1 and not name.startswith("fusion")]
    assert not any(torch.equal(start[name], again[name]) for name in matrices)


def test_he_initialisation_of_linear_layers():
    classifier = tiny(40, width=16, image_size=128).classifiers[3]
    assert classifier.fc1.weight.std().item() == pytest.approx((2 / classifier.fc1.in_features) ** 0.5, rel=0.05)
    assert not classifier.fc1.bias.any()


def test_permuting_the_batch_permutes_the_scores():
    model = tiny().double().eval()
    x, order = images(4).double(), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model(x[order]).logits, model(x).logits[order])


def test_channels_last_is_kept_and_changes_nothing():
    model = tiny().double().eval()
    x = images().double()
    expected = model.forward_features(x, reconstruct=True)
    model.to(memory_format=torch.channels_last)
    features = model.forward_features(x.to(memory_format=torch.channels_last), reconstruct=True)
    torch.testing.assert_close(features.scores, expected.scores)
    torch.testing.assert_close(features.reconstruction, expected.reconstruction)
    assert all(a.is_contiguous(memory_format=torch.channels_last) for a in features.attended[:3])


def test_autocast():
    model = tiny().eval()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.forward_features(images(), reconstruct=True)
    assert features.scores.dtype == torch.bfloat16
    torch.testing.assert_close(features.scores.float(), model(images()).scores, rtol=0.1, atol=0.3)


def test_compiles_into_one_graph():
    model = tiny().eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()).logits, model(images()).logits)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 250}, "BLAN: image size must be divisible by 32, got 250. Use 256, for example."),
        ({"image_size": 0}, "BLAN: image size must be divisible by 32, got 0. Use 32, for example."),
        ({"width": 0}, "BLAN: width must be at least 1, got 0. Use a positive integer."),
        ({"attributes": 0}, "BLAN: attributes must be at least 1, got 0. Use a positive integer."),
        ({"summary_channels": -1}, "BLAN: summary_channels must be at least 1, got -1. Use a positive integer."),
        (
            {"blocks": (3, 4, 6)},
            "BLAN: blocks must be 4 positive integers, got (3, 4, 6). "
            "Give the residual blocks of each stage, for example (3, 4, 6, 3).",
        ),
        ({"blocks": (3, 0, 6, 3)}, "BLAN: blocks must be 4 positive integers, got (3, 0, 6, 3)."),
        ({"dropout": 1.0}, "BLAN: dropout must be in [0, 1), got 1.0. Use 0.5, or 0 for none."),
        (
            {"decoder": False, "encoder_features": False},
            "BLAN: needs features to classify, got decoder=False and encoder_features=False. Use --no-decoder to "
            "classify the encoder's or --no-encoder-features to classify the decoder's, not both.",
        ),
        (
            {"decoder": False, "rdam": True},
            "BLAN: RDAM joins the features of encoder and decoder, got rdam=True with decoder=False and "
            "encoder_features=True. Leave rdam out: --no-decoder and --no-encoder-features imply --no-rdam.",
        ),
        (
            {"encoder_features": False, "rdam": True},
            "got rdam=True with decoder=True and encoder_features=False.",
        ),
        (
            {"decoder": False, "reconstruction": True},
            "BLAN: the reconstruction is the decoder's, got reconstruction=True with decoder=False. "
            "Leave reconstruction out: --no-decoder implies that there is none.",
        ),
        (
            {"decoder": False, "upsampling": "bilinear"},
            "BLAN: upsampling is an option of the decoder, got upsampling='bilinear' without the decoder. "
            "Leave it out, or leave out --no-decoder.",
        ),
        (
            {"rdam": False, "arrangement": "parallel"},
            "BLAN: arrangement is an option of RDAM, got arrangement='parallel' without RDAM. "
            "Leave it out, or leave out --no-rdam, --no-decoder and --no-encoder-features.",
        ),
        (
            {"fusion": False, "initial_fusion_weight": 1.0},
            "BLAN: initial_fusion_weight is an option of fusion, got initial_fusion_weight=1.0 without fusion. "
            "Leave it out, or leave out --no-fusion.",
        ),
        (
            {"upsampling": "bicubic"},
            "Decoder: upsampling must be one of ('nearest', 'bilinear'), got 'bicubic'. Choose one of them.",
        ),
        ({"arrangement": "serial"}, "RDAM: arrangement must be one of"),
    ],
    ids=str,
)
def test_impossible_models_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BLAN(**{"attributes": 3, **TINY, **options})


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"decoder": False, "rdam": False, "reconstruction": False}, ()),
        ({"encoder_features": False, "rdam": False}, ("decoder", "tail")),
        ({"rdam": False, "reconstruction": False}, ("decoder",)),
        ({"rdam": True, "reconstruction": True}, ("decoder", "tail", "rdam")),
    ],
    ids=str,
)
def test_parts_said_twice_are_no_contradiction(options, parts):
    model = tiny(**options)
    names = " ".join(model.state_dict())
    assert tuple(part for part in ("decoder", "tail", "rdam") if f"{part}." in names) == parts
    assert model.reconstructs == ("tail" in parts)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            torch.zeros(2, 3, 64, 64, dtype=torch.uint8),
            TypeError,
            "BLAN: images must be floating point, got torch.uint8. Pass them through normalize first.",
        ),
        (
            torch.zeros(2, 3, 96, 64),
            ValueError,
            "BLAN: images must have the shape (B, 3, 64, 64), got (2, 3, 96, 64). "
            "Resize the images, or build the model with their image_size.",
        ),
        (torch.zeros(2, 1, 64, 64), ValueError, "got (2, 1, 64, 64)."),
        (torch.zeros(3, 64, 64), ValueError, "got (3, 64, 64)."),
    ],
    ids=["dtype", "size", "channels", "rank"],
)
def test_wrong_images_are_refused(x, error, message):
    with pytest.raises(error, match=re.escape(message)):
        tiny()(x)


def test_parts_that_are_not_there_cannot_be_asked_for():
    without = tiny(decoder=False)
    message = (
        "BLAN: reconstruct=True needs a decoder with its tail, got a model without. "
        "Build it with decoder=True and reconstruction=True."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        without.forward_features(images(), reconstruct=True)
    message = "BLAN: maps=True needs RDAM, got a model without. Build it with rdam=True."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        without.forward_features(images(), maps=True)
    message = (
        "Decoder: a reconstruction needs the decoder's tail, got reconstruction=False. "
        "Build the model with reconstruction."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        tiny(reconstruction=False).decoder.reconstruct(torch.zeros(1, 4, 16, 16))
