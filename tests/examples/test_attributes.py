import re

import pytest

from blan_facial.data.attributes import CELEBA_ATTRIBUTES, choose, read_attribute_names
from blan_facial.data.faces import DataError


def test_there_are_40_attributes_in_the_official_order():
    assert len(set(CELEBA_ATTRIBUTES)) == 40
    assert list(CELEBA_ATTRIBUTES) == sorted(CELEBA_ATTRIBUTES)


def test_names_are_spelt_as_celeba_does_and_keep_their_order():
    assert read_attribute_names(["Young ", "5 o Clock Shadow", "mouth slightly open"], "here") == (
        "Young",
        "5_o_Clock_Shadow",
        "Mouth_Slightly_Open",
    )


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], "here: needs the attribute names, got none. Restore the line that names the columns."),
        (["Bald", "Smilling"], "here: attributes must be those of CelebA, got 'Smilling'. Did you mean Smiling?"),
        (["Grey_Hair"], "got 'Grey_Hair'. Did you mean Gray_Hair"),
        (
            ["Zebra"],
            "here: attributes must be those of CelebA, got 'Zebra'. The 40 names are 5_o_Clock_Shadow, "
            "Arched_Eyebrows,",
        ),
        (["Bald", "Male", "bald"], "here: an attribute must be named once, got Bald twice. Remove one of its columns."),
    ],
)
def test_names_that_cannot_be_used_are_refused(names, text):
    with pytest.raises(DataError, match=re.escape(text)):
        read_attribute_names(names, "here")


@pytest.mark.parametrize(
    ("asked", "chosen", "lacking"),
    [
        (["smiling, wears a hat"], ["Smiling", "Wears_a_Hat"], []),
        (["Smiling,", "bald"], ["Smiling", "bald"], []),
        ([","], [], [","]),
        ([" "], [], [" "]),
        (["Red, round"], ["Red, round"], []),
        (["bald"], ["bald"], []),
        (["BALD"], [], ["BALD"]),
        (["Bald", "Zebra"], ["Bald"], ["Zebra"]),
    ],
)
def test_attributes_are_chosen_by_names_that_fit_one_alone(asked, chosen, lacking):
    known = ("Smiling", "Wears_a_Hat", "Bald", "bald", "Red, round")
    assert choose(asked, known) == (chosen, lacking)


@pytest.mark.parametrize("asked", [["Smiling", "Bald", "Smiling"], ["smiling", "Smiling"], ["Smiling, smiling"]])
def test_an_attribute_that_is_named_again_is_refused(asked: list[str]) -> None:
    with pytest.raises(DataError, match=r"^attributes: an attribute must be named once, got Smiling again\. Leave it"):
        choose(asked, ("Smiling", "Bald"))
