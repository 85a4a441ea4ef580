import re
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from blan_facial.network import encoder as encoder_module
from blan_facial.network.encoder import IMAGENET_URL, EncoderWeightsError, ResNetEncoder, load_encoder_weights


def resnet34_shapes():
    """Names and shapes of torchvision's resnet34 state dict, written down from the architecture alone."""

    def norm(name, channels):
        vectors = {f"{name}.{entry}": (channels,) for entry in ("weight", "bias", "running_mean", "running_var")}
        return {**vectors, f"{name}.num_batches_tracked": ()}

    shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    in_channels = 64
    for layer, (channels, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for index in range(blocks):
            block = f"layer{layer}.{index}"
            shapes |= {f"{block}.conv1.weight": (channels, in_channels, 3, 3), **norm(f"{block}.bn1", channels)}
            shapes |= {f"{block}.conv2.weight": (channels, channels, 3, 3), **norm(f"{block}.bn2", channels)}
            if in_channels != channels:
                shapes[f"{block}.downsample.0.weight"] = (channels, in_channels, 1, 1)
                shapes |= norm(f"{block}.downsample.1", channels)
            in_channels = channels
    return {**shapes, "fc.weight": (1000, 512), "fc.bias": (1000,)}


@pytest.fixture(scope="module")
def checkpoint():
    """A state dict in torchvision's format, every entry with values of its own."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.rand(shape, generator=generator) if shape else torch.tensor(len(name))
        for name, shape in resnet34_shapes().items()
    }


@pytest.fixture
def encoder():
    with torch.device("meta"):
        encoder = ResNetEncoder()
    encoder.to_empty(device="cpu")
    for value in encoder.state_dict().values():
        value.zero_()
    return encoder


def assert_loaded(encoder, checkpoint):
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, checkpoint[name]), name


def test_names_and_shapes_are_torchvisions_but_for_the_head(encoder):
    expected = resnet34_shapes()
    assert len(expected) == 218
    del expected["fc.weight"], expected["fc.bias"]
    assert {name: tuple(value.shape) for name, value in encoder.state_dict().items()} == expected


@pytest.mark.parametrize("extension", ["pth", "safetensors"])
def test_every_entry_of_a_file_is_loaded(tmp_path, encoder, checkpoint, extension):
    path = tmp_path / f"resnet34.{extension}"
    (save_file if extension == "safetensors" else torch.save)(checkpoint, path)
    load_encoder_weights(encoder, path)
    assert_loaded(encoder, checkpoint)


def test_old_checkpoints_of_parameters_without_batch_counts_load(tmp_path, encoder, checkpoint):
    entries = {
        name: torch.nn.Parameter(value, requires_grad=False)
        for name, value in checkpoint.items()
        if not name.endswith("num_batches_tracked")
    }
    assert len(entries) == 182
    torch.save(entries, tmp_path / "old.pth")
    load_encoder_weights(encoder, tmp_path / "old.pth")
    zero = torch.tensor(0)
    assert_loaded(encoder, {name: entries.get(name, zero) for name in checkpoint})


@pytest.mark.attack("15.5", "training on a CPU with maps of few channels")
def test_narrow_maps_are_not_channels_last(encoder):
    """Their backward writes past its memory in oneDNN."""
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    for width in (4, 8, 15, 16):
        narrow = ResNetEncoder(width, (1, 1, 1, 1))
        narrow.to(memory_format=narrow.memory_format)
        features = narrow(images)
        wide = width >= 16
        assert all(e.is_contiguous(memory_format=torch.channels_last) == wide for e in features[:3])
        sum(e.sum() for e in features).backward()
    assert encoder.memory_format == torch.channels_last


@pytest.mark.attack("15.3", "the cached ImageNet file has other contents")
def test_a_kept_file_of_other_contents_is_refused(monkeypatch, encoder, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints" / "resnet34-b627a593.pth"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"something else")
    with pytest.raises(EncoderWeightsError) as error:
        load_encoder_weights(encoder, "imagenet")
    assert str(error.value) == (
        f"Encoder weights: {kept} must have a SHA-256 that starts with b627a593, got f41f3fa6. "
        "Delete it, so that it is downloaded again."
    )


def test_imagenet_is_downloaded_from_pytorch_with_its_hash_checked(monkeypatch, encoder, checkpoint):
    calls = []

    def download(url, **options):
        calls.append((url, options))
        return checkpoint

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    load_encoder_weights(encoder, "imagenet")
    assert_loaded(encoder, checkpoint)
    assert calls == [
        (
            "https://download.pytorch.org/models/resnet34-b627a593.pth",
            {"map_location": "cpu", "check_hash": True, "weights_only": True},
        )
    ]


@pytest.mark.parametrize("failure", [URLError("no route to host"), RuntimeError("invalid hash value")])
def test_failed_download_says_what_to_fetch_and_where_to_give_it(monkeypatch, encoder, failure):
    def download(url, **options):
        raise failure

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    message = (
        f"Encoder weights: imagenet means the file {IMAGENET_URL}, got no valid copy of it ({failure}). "
        "Download it on a machine with network access and pass it as --encoder-weights FILE."
    )
    with pytest.raises(EncoderWeightsError, match=f"^{re.escape(message)}$"):
        load_encoder_weights(encoder, "imagenet")


def replaced(entries, **changes):
    merged = {**entries, **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in merged.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda entries: replaced(entries, bn1__weight=None),
            "must contain all 180 entries of the encoder, got {path} without bn1.weight.",
        ),
        (
            lambda entries: {f"module.{name}": value for name, value in entries.items()},
            "must contain all 180 entries of the encoder, got {path} without conv1.weight and 179 more.",
        ),
        (
            lambda entries: replaced(entries, layer5__weight=torch.zeros(1)),
            "must contain only the encoder's entries and fc.*, got {path} with layer5.weight.",
        ),
        (
            lambda entries: replaced(entries, conv1__weight=torch.zeros(64, 1, 7, 7)),
            "conv1.weight must have the shape (64, 3, 7, 7), got (64, 1, 7, 7) in {path}.",
        ),
        (
            lambda entries: replaced(entries, conv1__weight=entries["conv1.weight"].cfloat()),
            "conv1.weight must have the dtype torch.float32, got torch.complex64 in {path}.",
        ),
        (
            lambda entries: replaced(entries, bn1__running_var=entries["bn1.running_var"] * torch.nan),
            "bn1.running_var must be finite, got nan in {path}.",
        ),
        (lambda entries: list(entries.values()), "must be a mapping of names to tensors, got {path}."),
        (
            lambda entries: {"state_dict": entries, "epoch": 3},
            "must be a mapping of names to tensors, got {path}.",
        ),
    ],
    ids=["missing", "prefix", "unknown", "shape", "complex", "nan", "list", "nested"],
)
def test_wrong_entries_are_refused_and_the_encoder_stays(tmp_path, checkpoint, encoder, change, message):
    path = tmp_path / "weights.pth"
    torch.save(change(checkpoint), path)
    expected = f"Encoder weights: {message.format(path=path)} Use a ResNet-34 state dict in torchvision's format."
    with pytest.raises(EncoderWeightsError, match=f"^{re.escape(expected)}$"):
        load_encoder_weights(encoder, path)
    assert not any(value.any() for value in encoder.state_dict().values())


def test_missing_file(tmp_path, encoder):
    message = f"Encoder weights: must be a file or imagenet, got {tmp_path / 'no.pth'}, which is not a file."
    with pytest.raises(EncoderWeightsError, match=re.escape(message)):
        load_encoder_weights(encoder, tmp_path / "no.pth")


@pytest.mark.parametrize("name", ["torn.pth", "text.pth", "empty.pth", "torn.safetensors"])
def test_unreadable_file(tmp_path, encoder, name):
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)({"conv1.weight": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    contents = {"torn": whole[: len(whole) // 2], "text": b"<html>404</html>", "empty": b""}
    path.write_bytes(contents[path.stem])
    message = f"must be a state dict saved by torch.save or safetensors, got {path}, which cannot be read"
    with pytest.raises(EncoderWeightsError, match=re.escape(message)):
        load_encoder_weights(encoder, path)


def test_code_in_a_checkpoint_is_not_run(tmp_path, encoder):
    class Payload:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"conv1.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(EncoderWeightsError, match="UnpicklingError"):
        load_encoder_weights(encoder, tmp_path / "evil.pth")


@pytest.mark.parametrize("options", [{"width": 32}, {"blocks": (1, 1, 1, 1)}])
def test_only_resnet34_takes_the_weights(tmp_path, options):
    with torch.device("meta"):
        other = ResNetEncoder(**options)
    message = (
        "Encoder weights: need ResNet-34's width 64 and blocks (3, 4, 6, 3), "
        f"got width {other.width} and blocks {other.blocks}. "
        "Give --encoder-weights None, or leave out --width and --blocks."
    )
    with pytest.raises(EncoderWeightsError, match=f"^{re.escape(message)}$"):
        load_encoder_weights(other, tmp_path / "any.pth")


def literal_resnet(x, weights, blocks):
    """The network from its state dict alone, one functional call after another (evaluation mode)."""

    def norm(x, name):
        mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = F.relu(norm(F.conv2d(x, weights["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    features = []
    for layer, count in enumerate(blocks, start=1):
        for index in range(count):
            name, stride = f"layer{layer}.{index}", 2 if layer > 1 and index == 0 else 1
            y = F.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(F.relu(norm(y, f"{name}.bn1")), weights[f"{name}.conv2.weight"], padding=1)
            if f"{name}.downsample.0.weight" in weights:
                x = norm(F.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=stride), f"{name}.downsample.1")
            x = F.relu(norm(y, f"{name}.bn2") + x)
        features.append(x)
    return features


def test_forward_equals_the_literal_network():
    torch.manual_seed(0)
    blocks = (2, 1, 3, 1)
    encoder = ResNetEncoder(4, blocks).double()
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    encoder.train()(images)  # moves the running statistics off their start
    encoder.eval()
    expected = literal_resnet(images, encoder.state_dict(), blocks)
    for actual, literal in zip(encoder(images), expected, strict=True):
        torch.testing.assert_close(actual, literal, rtol=1e-12, atol=1e-12)
    assert [tuple(e.shape) for e in expected] == [(2, 4, 16, 24), (2, 8, 8, 12), (2, 16, 4, 6), (2, 32, 2, 3)]


def test_he_initialisation():
    torch.manual_seed(0)
    encoder = ResNetEncoder(32, (1, 1, 1, 1))
    weight = encoder.layer4[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert torch.all(encoder.layer4[0].bn2.weight == 1)


def test_published_address_carries_the_hash_that_is_checked():
    assert torch.hub.HASH_REGEX.search(encoder_module.IMAGENET_URL).group(1) == "b627a593"
