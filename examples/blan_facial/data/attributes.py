"""The 40 attributes of CelebA and LFWA, and reading their names."""

import difflib
from collections.abc import Sequence

from blan_facial.data.faces import DataError

CELEBA_ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)

_BY_FOLDED_NAME = {name.casefold(): name for name in CELEBA_ATTRIBUTES}


def spoken(attribute: str) -> str:
    """Return an attribute's name with spaces."""
    return attribute.replace("_", " ")


def choose(asked: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the requested attributes in their known spelling, and unknown or ambiguous names.

    Args:
        asked: Names in any case, with spaces or underscores; commas separate several names in one string.
        known: The available attributes.

    Raises:
        DataError: An attribute is named again.
    """
    spellings: dict[str, list[str]] = {}
    for name in known:
        spellings.setdefault(_folded(name), []).append(name)

    def find(name: str) -> str | None:
        alike = spellings.get(_folded(name), [])
        return name if name in alike else alike[0] if len(alike) == 1 else None

    names: list[str] = []
    for name in asked:
        parts = [name] if find(name) else [part.strip() for part in name.split(",") if part.strip()]
        names += parts or [name]
    chosen = [attribute for name in names if (attribute := find(name))]
    for attribute in chosen:
        if chosen.count(attribute) > 1:
            raise DataError(f"attributes: an attribute must be named once, got {attribute} again. Leave it out.")
    return chosen, [name for name in names if not find(name)]


def _folded(name: str) -> str:
    return "_".join(name.replace("_", " ").split()).casefold()


def read_attribute_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Convert attribute names to CelebA's spelling; case is ignored, and words may be separated by spaces.

    Args:
        names: Names of some of the 40 attributes, in any order.
        where: The source of the names, for messages.

    Returns:
        Names in `CELEBA_ATTRIBUTES`, in the order of `names`.

    Raises:
        DataError: A name is unknown or repeated, or there are no names.
    """
    if not names:
        raise DataError(f"{where}: needs the attribute names, got none. Restore the line that names the columns.")
    known: list[str] = []
    for name in names:
        attribute = _BY_FOLDED_NAME.get("_".join(name.split()).casefold())
        if attribute is None:
            raise DataError(f"{where}: attributes must be those of CelebA, got {name!r}. {_suggestion(name)}")
        if attribute in known:
            raise DataError(
                f"{where}: an attribute must be named once, got {attribute} twice. Remove one of its columns."
            )
        known.append(attribute)
    return tuple(known)


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches("_".join(name.split()).casefold(), _BY_FOLDED_NAME)
    if near:
        return f"Did you mean {' or '.join(_BY_FOLDED_NAME[match] for match in near)}?"
    return f"The 40 names are {', '.join(CELEBA_ATTRIBUTES)}."
