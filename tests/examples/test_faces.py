import io
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from blan_facial.data.faces import (
    CorruptImageError,
    DataError,
    FaceDataset,
    FaceFiles,
    check_request,
    decode_face,
    decode_picture,
    limit_pixels,
)

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
COLOURS = np.stack([RAMP, RAMP.T, 255 - RAMP], axis=-1)


def encoded(image, file_format, **options):
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def distance(a, b):
    return np.abs(a.astype(int) - b.astype(int))


@pytest.mark.parametrize(
    ("mode", "file_format", "tolerance"),
    [("RGB", "PNG", 0), ("RGBA", "PNG", 0), ("CMYK", "JPEG", 1), ("YCbCr", "JPEG", 3), ("P", "GIF", 20)],
)
def test_colours_survive_every_mode(mode, file_format, tolerance):
    face = decode_face(encoded(Image.fromarray(COLOURS).convert(mode), file_format), 64)
    assert face.dtype == np.uint8
    assert distance(face, COLOURS).mean() <= tolerance


@pytest.mark.parametrize("grey", [RAMP, RAMP.astype(np.uint16) * 257], ids=["8 bits", "16 bits"])
def test_grey_becomes_three_equal_channels(grey):
    face = decode_face(encoded(Image.fromarray(grey), "PNG"), 64)
    np.testing.assert_array_equal(face, np.repeat(RAMP[..., None], 3, axis=-1))


def test_a_palette_with_transparency_decodes():
    data = encoded(Image.fromarray(COLOURS).convert("P"), "PNG", transparency=bytes(range(256)))
    assert distance(decode_face(data, 64), COLOURS).mean() < 20


def test_the_whole_image_is_resized_not_cropped():
    portrait = np.zeros((218, 178, 3), dtype=np.uint8)
    portrait[:20, :20] = portrait[-20:, -20:] = 255
    face = decode_face(encoded(Image.fromarray(portrait), "PNG"), 64)
    assert face.shape == (64, 64, 3)
    assert face[:4, :4].min() == face[-4:, -4:].min() == 255
    assert face[:4, -4:].max() == face[-4:, :4].max() == 0


def test_a_large_jpeg_decodes_as_if_in_full():
    y, x = np.mgrid[:1203, :901]
    waves = np.stack([np.sin(x / 40), np.sin(y / 60), np.sin((x + y) / 90)], axis=-1)
    data = encoded(Image.fromarray((127 + 127 * waves).astype(np.uint8)), "JPEG", quality=95)
    full = Image.open(io.BytesIO(data)).resize((64, 64), Image.Resampling.BILINEAR)
    assert distance(decode_face(data, 64), np.asarray(full)).max() <= 4


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(file_format, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(Image.fromarray(COLOURS[:, :32]), file_format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = decode_picture(data, 64)
    assert picture.shape == (upright.height, upright.width, 3)
    assert distance(picture, np.asarray(upright)).max() <= 6
    square = upright.resize((16, 16), Image.Resampling.BILINEAR)
    assert distance(decode_face(data, 16), np.asarray(square)).mean() <= 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_spoils_no_image():
    data = encoded(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode_face(data, 16).shape == (16, 16, 3)
    assert decode_picture(data, 10).shape == (10, 10, 3)


def face_files(folder, *names):
    labels = np.zeros((len(names), 1), dtype=np.uint8)
    return FaceFiles("celeba", "test", ("Bald",), labels, folder=folder, files=np.array(names), image_size=32)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "bytes of no known image format"),
        (b"<html>not found</html>", "bytes of no known image format"),
        (encoded(NOISE, "JPEG")[:2000], "image file is truncated"),
        (encoded(NOISE, "PNG")[:2000], "image file is truncated"),
    ],
    ids=["empty", "html", "jpeg", "png"],
)
def test_a_file_that_does_not_decode_is_named_with_its_index(tmp_path, data, reason):
    (tmp_path / "good.png").write_bytes(encoded(NOISE, "PNG"))
    (tmp_path / "bad.jpg").write_bytes(data)
    faces = face_files(tmp_path, "good.png", "bad.jpg")
    assert faces.image(0).shape == (32, 32, 3)
    text = f"{tmp_path / 'bad.jpg'}: image 1 must decode as a whole, got {reason}"
    with pytest.raises(CorruptImageError, match=re.escape(text)) as caught:
        faces.image(1)
    assert caught.value.path == tmp_path / "bad.jpg"
    assert caught.value.index == 1
    assert str(caught.value).endswith("Replace the file, or go on without such images by --skip-corrupt.")


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 0)  # so that it is put back
    (tmp_path / "image.png").write_bytes(encoded(NOISE, "PNG")[:100])  # the header alone
    limit_pixels(64 * 64)
    with pytest.raises(CorruptImageError, match="truncated"):
        face_files(tmp_path, "image.png").image(0)
    for limit in (64 * 64 - 1, 100):  # Pillow's own warning, and its own error
        limit_pixels(limit)
        with pytest.raises(CorruptImageError, match=f"got more than {limit:,} pixels, perhaps a decompression bomb"):
            face_files(tmp_path, "image.png").image(0)
    with pytest.raises(ValueError, match="limit_pixels: pixels must be at least 1, got 0"):
        limit_pixels(0)


def test_pillow_s_warning_of_a_bomb_is_an_error_without_pytest_too(repository):
    code = (
        "import warnings; from PIL import Image; from blan_facial.data import faces; "
        "warnings.warn('', Image.DecompressionBombWarning)"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=repository / "examples", stderr=-1)
    assert b"DecompressionBombWarning" in result.stderr
    assert result.returncode == 1


def test_a_file_that_vanished_is_not_called_corrupt(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        face_files(tmp_path, "gone.jpg").image(0)


def test_the_error_survives_pickling():
    error = CorruptImageError(Path("a.jpg"), 7, "nonsense")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, DataError)
    assert (type(copy), str(copy), copy.path, copy.index) == (CorruptImageError, str(error), Path("a.jpg"), 7)


def test_a_data_set_has_the_length_of_its_labels_and_must_make_images(tmp_path):
    assert len(face_files(tmp_path, "a", "b", "c")) == 3
    with pytest.raises(TypeError, match="abstract"):
        FaceDataset()


@pytest.mark.parametrize(
    ("split", "image_size", "text"),
    [
        ("val", 64, "load_x: split must be one of train, validation, test, got 'val'."),
        ("test", 0, "load_x: image_size must be at least 1 pixel, got 0."),
    ],
)
def test_a_request_out_of_range_is_refused(split, image_size, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        check_request("load_x", split, image_size)
