"""Annotated pictures: what is drawn, in which font."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from blan_facial.prediction.annotating import annotated
from blan_facial.prediction.predictor import Answer
from shared import fonts
from shared.svg import png

PICTURE = np.full((60, 40, 3), (200, 30, 30), dtype=np.uint8)


def drawn(*answers: Answer, name: str = "a.png") -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(annotated(PICTURE, name, answers))).convert("RGB")).astype(int)


@pytest.fixture
def no_other_font(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts.others.cache_clear()
    monkeypatch.setattr(fonts, "_warned", [])
    monkeypatch.setattr(fonts, "_installed", lambda: ())


def test_bars_are_as_long_as_answers_are_probable() -> None:
    picture = drawn(Answer("A", 0.9, True, "AC1", {}), Answer("B", 0.2, False, None, {}))
    assert picture[200, 200].tolist() == [200, 30, 30]
    blue, grey = (np.isclose(picture, color, atol=1).all(-1) for color in ((0x22, 0x69, 0xB8), (0xB0, 0xB0, 0xB0)))
    longest = [mask.sum(1).max() for mask in (blue, grey)]
    assert longest == [pytest.approx(1.5 * 90 * 0.9, abs=2), pytest.approx(1.5 * 90 * 0.2, abs=2)]


@pytest.mark.attack("15.13", "an attribute with a long name")
def test_long_names_do_not_reach_into_the_picture() -> None:
    picture = drawn(Answer("A" * 200, 0.9, True, None, {}))
    assert (picture[:, 24 + 510 + 12 : 24 + 510 + 40][120:] == 255).all()


@pytest.mark.attack("15.13", "attributes in letters that no font has")
@pytest.mark.usefixtures("no_other_font")
def test_what_no_font_has_is_a_box_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        boxes = drawn(Answer("性别", 0.9, True, None, {}), name="性.png")
        drawn(Answer("性别", 0.9, True, None, {}))
        one, two = png("性", "", 200, 99), png("别", "", 200, 99)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "shared.fonts"]
    assert warning.startswith("Pictures show boxes for 性, which no installed font has. Install")
    assert one == two != png("", "", 200, 99)
    assert (boxes == drawn(Answer("□□", 0.9, True, None, {}), name="□.png")).all()
    assert fonts.boxed("a 性 é") == "a □ é"


def test_a_font_of_the_machine_is_taken_for_what_ours_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    fonts.others.cache_clear()
    regular, bold = fonts.own_fonts()
    monkeypatch.setattr(fonts, "_installed", lambda: (bold,))
    monkeypatch.setattr(fonts, "_own", lambda: frozenset(range(128)))
    assert fonts.boxed("é性") == "é□"
    assert fonts.files_for(["é"]) == [regular, bold]
    fonts.others.cache_clear()
