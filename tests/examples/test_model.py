import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from blan_facial.config import PRESETS, Config
from blan_facial.data.attributes import CELEBA_ATTRIBUTES
from blan_facial.network.builder import build, build_blan
from blan_facial.network.decoder import Decoder, LateDecoder
from blan_facial.network.model import BLAN
from blan_facial.network.parameters import parameter_table
from blan_layers import RDAM
from blan_layers.networks import capture_maps

TINY = Config(image_size=64, width=4, blocks=(1, 1, 1, 1), summary_channels=8)


def tiny(attributes=3, **options):
    torch.manual_seed(0)
    return build_blan(replace(TINY, **options), attributes)


def images(batch=2, size=64):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def on_meta(**options):
    with torch.device("meta"):
        return build_blan(Config(**options), 40)


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
        model = build_blan(PRESETS["celeba"], 40).eval()
        names = [f"classifiers.{i}.{unit}" for i in range(4) for unit in ("bn1", "bn2")]
        outputs = recorded(model, "encoder", "decoder", *names)
        with torch.no_grad():
            features = model(images(1, 256), reconstruct=True)
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

    def test_parameters(self):
        with torch.device("meta"):
            model, objective = build(PRESETS["celeba"], CELEBA_ATTRIBUTES)
        table = parameter_table(model, objective)
        assert table.rows == (
            ("encoder", self.ENCODER),
            ("decoder", self.DECODER),
            ("joins", self.RDAM),
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
            ({"decoder": False}, -DECODER - RDAM),
            ({"encoder_features": False}, -RDAM),
            # Twice the channels into the first convolutions of AC_1..AC_3.
            ({"join": "concat"}, -RDAM + 51_200 + 73_728 + 294_912),
            ({"join": "none"}, -RDAM),
            ({"decoder_order": "stage-upsample"}, 0),
            ({"beta": 0.0}, -3_075),
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
    features = model(images(1, 224), reconstruct=True)
    assert [a.shape[-1] for a in features.attended] == [56, 28, 14, 7]
    assert [classifier.fc1.in_features for classifier in model.classifiers] == [2 * 196, 2 * 196, 8 * 49, 32 * 16]
    assert features.reconstruction.shape == (1, 3, 224, 224)


@settings(max_examples=8, deadline=None)
@given(steps=st.integers(1, 4), width=st.integers(1, 6), blocks=st.tuples(*[st.integers(1, 2)] * 4))
def test_any_size_width_and_blocks(steps, width, blocks):
    model = build_blan(Config(image_size=32 * steps, width=width, blocks=blocks, summary_channels=3), 5)
    x = images(2, 32 * steps)
    features = model(x, reconstruct=True)
    assert features.reconstruction.shape == x.shape
    assert features.scores.shape == (4, 2, 5, 2)
    assert [a.shape[1] for a in features.attended] == [width * 2**i for i in range(4)]
    assert model.image_size == 32 * steps


def test_inference_keeps_to_what_leads_to_d1():
    model = tiny().eval()
    last = recorded(model, "decoder.to_rgb")
    model(images())
    assert not last
    model(images(), reconstruct=True)
    assert last


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
        ({"join": "none"}, lambda model, level, e, d: e),
        ({"join": "concat"}, lambda model, level, e, d: torch.cat((e, d), 1)),
        *(
            ({"join": name}, lambda model, level, e, d: model.joins[level](e, d))
            for name in ("rdam", "rar", "attention-gate")
        ),
    ],
    ids=["Enc", "Dec", "none", "concat", "rdam", "rar", "attention-gate"],
)
def test_attended_features(options, join):
    model = tiny(**options).eval()
    outputs = recorded(model, "encoder", *(() if model.decoder is None else ("decoder",)))
    features = model(images())
    encoded, decoded = outputs["encoder"], outputs.get("decoder", (None,) * 3)
    for level in range(3):
        expected = join(model, level, encoded[level], decoded[level])
        assert torch.equal(features.attended[level], expected)
    assert torch.equal(features.attended[3], encoded[3])


def test_decoders_are_chains_of_stages_and_upsamplings():
    """With one set of weights: x2 before each step, or after it."""
    early, late = Decoder(4, (1, 1, 1)).eval(), LateDecoder(4, (1, 1, 1)).eval()
    late.load_state_dict(early.state_dict())
    double, deepest = nn.UpsamplingNearest2d(scale_factor=2), torch.randn(2, 32, 2, 2)
    orders = ((early, lambda step, x: step(double(x))), (late, lambda step, x: double(step(x))))
    for decoder, enlarge in orders:
        d3 = enlarge(decoder.stage3, deepest)
        d2 = enlarge(decoder.stage2, d3)
        d1 = enlarge(decoder.stage1, d2)
        for actual, expected in zip(decoder(deepest), (d1, d2, d3), strict=True):
            assert torch.equal(actual, expected)
        assert d1.shape == (2, 4, 16, 16)
        image = decoder.reconstruct(d1)
        assert torch.equal(image, enlarge(decoder.to_rgb, d1))
        assert image.shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("order", "decoder", "whole"), [("upsample-stage", 8.96, 20.6), ("stage-upsample", 2.24, 13.8)]
)
def test_the_late_decoder_takes_a_quarter_of_the_arithmetic(order, decoder, whole):
    """GFLOP at 256 px, a multiplication and an addition counted apart."""
    model = on_meta(decoder_order=order).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, 256, 256, device="meta"), reconstruct=True)
    counts = {name: sum(of.values()) / 1e9 for name, of in counter.get_flop_counts().items()}
    assert counts["BLAN.decoder"] == pytest.approx(decoder, abs=0.03)
    assert counts["Global"] == pytest.approx(whole, abs=0.1)


def test_bilinear_upsampling_keeps_the_weights():
    nearest, bilinear = Decoder(4, (1, 1, 1)).eval(), Decoder(4, (1, 1, 1), upsampling="bilinear").eval()
    bilinear.load_state_dict(nearest.state_dict())
    first, second = (decoder(torch.ones(1, 32, 2, 2).cumsum(3))[0] for decoder in (nearest, bilinear))
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("join", ["rdam", "attention-gate"])
def test_the_maps_of_the_joins_can_be_captured(join):
    model = tiny(join=join).eval()
    plain = model(images())
    with capture_maps(model) as maps:
        captured = model(images())
    assert torch.equal(plain.scores, captured.scores)
    assert list(maps) == [f"joins.{level}" for level in range(3)]
    for level, of in enumerate(maps.values()):
        assert of["spatial_map"].shape == (2, 1, *plain.attended[level].shape[2:])


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


def test_rdam_settings_reach_every_rdam():
    for rdam in tiny(arrangement="parallel", rdam_norm=True).joins:
        assert isinstance(rdam, RDAM)
        assert rdam.arrangement == "parallel"
        assert isinstance(rdam.conv_norm, nn.BatchNorm2d)
        assert isinstance(rdam.spatial.norm, nn.BatchNorm2d)


def test_state_dict_is_the_inference_networks():
    model = tiny()
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "encoder",
        "decoder",
        "joins",
        "classifiers",
        "fusion",
    }
    copy = tiny()
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy.eval()(images()).logits, model.eval()(images()).logits, rtol=0, atol=0)


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
    expected = model(x, reconstruct=True)
    model.to(memory_format=torch.channels_last)
    features = model(x.to(memory_format=torch.channels_last), reconstruct=True)
    torch.testing.assert_close(features.scores, expected.scores)
    torch.testing.assert_close(features.reconstruction, expected.reconstruction)
    assert all(a.is_contiguous(memory_format=torch.channels_last) for a in features.attended[:3])


def test_autocast():
    model = tiny().eval()
    with torch.autocast("cpu", torch.bfloat16):
        features = model(images(), reconstruct=True)
    assert features.scores.dtype == torch.bfloat16
    torch.testing.assert_close(features.scores.float(), model(images()).scores, rtol=0.1, atol=0.3)


def test_compiles_into_one_graph():
    model = tiny().eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images()).logits, model(images()).logits)


def test_a_model_needs_a_join_for_each_level_but_the_last():
    parts = tiny()
    message = "BLAN: needs 3 joins and 4 classifiers, got 2 and 4. Level 4 has a classifier but no join."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BLAN(parts.encoder, parts.decoder, parts.joins[:2], parts.classifiers, parts.fusion)


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


def test_a_reconstruction_that_is_not_there_cannot_be_asked_for():
    for options, message in (
        (
            {"decoder": False},
            "BLAN: reconstruct=True needs a decoder, got a model without one.",
        ),
        ({"beta": 0.0}, "Decoder: a reconstruction needs the decoder's last step, got reconstruction=False."),
    ):
        model = tiny(**options)
        assert not model.reconstructs
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            model(images(), reconstruct=True)
    message = "Decoder: upsampling must be one of ('nearest', 'bilinear'), got 'bicubic'. Choose one of them."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Decoder(4, (1, 1, 1), upsampling="bicubic")
