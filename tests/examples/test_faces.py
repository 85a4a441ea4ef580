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
    check_request,
    decode_face,
    decode_picture,
    limit_pixels,
    number_people,
)
from blan_facial.data.folders import ImageFiles

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


@pytest.mark.attack("15.4", "a TIFF of 32-bit integers or floating numbers")
@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_grey_of_32_bits_is_refused_rather_than_shown_black(kind):
    with pytest.raises(
        ValueError, match=r"^32-bit pixels, whose black and white levels are unknown; save it with 8 or"
    ):
        decode_face(encoded(Image.fromarray(RAMP.astype(kind)), "TIFF"), 64)


@pytest.mark.attack("15.9", "a .jpg that is an EPS")
def test_only_image_formats_are_read_whatever_the_file_is_called(monkeypatch):
    def start(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(ValueError, match=r"^no known image format$"):
        decode_face(encoded(Image.fromarray(COLOURS), "EPS"), 64)


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
    return faces_of(ImageFiles(folder, np.array(names)), len(names))


def faces_of(images, count, **options):
    labels = np.arange(2 * count).reshape(count, 2)
    return FaceDataset(
        name="celeba", split="test", attributes=("Bald", "Male"), labels=labels, images=images, image_size=32, **options
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no known image format"),
        (b"<html>not found</html>", "no known image format"),
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
    text = f"{tmp_path / 'bad.jpg'}: image 1 must decode completely, got {reason}"
    with pytest.raises(CorruptImageError, match=re.escape(text)) as caught:
        faces.image(1)
    assert caught.value.place == tmp_path / "bad.jpg"
    assert caught.value.index == 1
    assert str(caught.value).endswith("Replace the file, or skip such images with --skip-corrupt.")


@pytest.mark.attack("15.8", "a decompression bomb")
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
    assert (type(copy), str(copy), copy.place, copy.index) == (CorruptImageError, str(error), Path("a.jpg"), 7)


def test_the_first_faces_are_as_in_the_whole():
    faces = faces_of(np.arange(5 * 32 * 32 * 3).reshape(5, 32, 32, 3), 5, groups=np.array([3, 3, 1, 1, 2]))
    first = faces.first(3)
    assert (len(first), len(faces), len(faces.first(9))) == (3, 5, 5)
    np.testing.assert_array_equal(first.labels, faces.labels[:3])
    np.testing.assert_array_equal(first.groups, [3, 3, 1])
    np.testing.assert_array_equal(first.image(2), faces.image(2))


def test_attributes_may_stand_in_another_order():
    faces = faces_of(np.zeros((2, 32, 32, 3)), 2, groups=np.array([0, 1]))
    matched = faces.with_attributes(["Male"])
    assert (matched.attributes, matched.labels.tolist(), matched.groups.tolist()) == (("Male",), [[1], [3]], [0, 1])
    text = "celeba: must have the 2 requested attributes, got none called Big_Lips, Hat. It has"
    with pytest.raises(DataError, match=re.escape(text)):
        faces.with_attributes(("Big_Lips", "Hat"))


def test_an_image_without_a_name_is_a_person_of_its_own():
    assert number_people(["Anna", "", "Ben", "Anna", ""]).tolist() == [0, 1, 2, 0, 3]


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
