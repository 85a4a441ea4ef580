"""The pieces that a face is drawn from: python-avatars' art, and what it lacks or draws too small for a thumbnail.

A piece is SVG on python-avatars' canvas of 264 x 280, where the head spans x 76 to 188 and y 36 to 180 and x 132 is its
middle. Where a piece may have any colour, it has the CSS colour of the group around it.
"""

import re
from functools import cache
from typing import Any, Final
from xml.etree import ElementTree

import python_avatars as pa

_SVG: Final = "{http://www.w3.org/2000/svg}"
_BLANK: Final[dict[str, Any]] = {
    "style": pa.AvatarStyle.TRANSPARENT,
    "top": pa.HairType.NONE,
    "eyebrows": None,
    "eyes": None,
    "nose": None,
    "mouth": None,
    "facial_hair": None,
    "accessory": None,
    "clothing": None,
    "hair_color": "currentColor",
    "facial_hair_color": "currentColor",
    "clothing_color": "currentColor",
}
_LIPS: Final = {  # around the mouths of these names
    "SMILE": "M36 13H72C72 25 64 32 54 32S36 25 36 13Z",
    "BIG_SMILE": "M29 13H79C78 26 69 35 54 35S30 26 29 13Z",
    "TWINKLE": "M42 16C42 26 66 26 66 16",
    "SERIOUS": "M43 21H65",
    "SAD": "M42 27C44 14 64 14 66 27",
    "CONCERNED": "M36 32H72C72 20 64 13 54 13S36 20 36 32Z",
    "DISBELIEF": "M40 29H68C68 21 62 15 54 15S40 21 40 29Z",
}
_BEARDS: Final = {
    "full": "M76 104V124A56 58 0 0 0 188 124V104L178 124C174 146 160 154 132 154S90 146 86 124Z",
    "goatee": "M106 172Q132 160 158 172L152 188Q132 204 112 188Z",
}
_FRINGE: Final = (
    "M74 74C72 44 104 30 132 30S192 44 190 74L179 68 168 74 156 67 144 74 132 67 120 74 108 67 96 74 85 68Z"
)
_WAVE: Final = "M68 44q-14 14 0 28t0 28t0 28t0 28t0 28"


@cache
def head() -> str:
    """Head, neck and shoulders."""
    outline = next(path.get("d") for path in _avatar().iter(f"{_SVG}path") if path.get("id") == "transparent_path-1")
    neck_shadow = '<path d="M76 140V152Q100 170 124 152V140Z" fill="#000" fill-opacity=".15"/>'
    chin = '<path d="M68 140A56 56 0 0 0 132 140Z"/>'
    return f'<g transform="translate(32 36)" fill="currentColor"><path d="{outline}"/>{neck_shadow}{chin}</g>'


@cache
def clothing(style: str) -> str:
    """Clothes, named as in `python_avatars.ClothingType`."""
    return f'<g shape-rendering="crispEdges">{_piece(_avatar(clothing=pa.ClothingType[style]), "Clothing")}</g>'


@cache
def hair(style: str, *, long: bool) -> str:
    """A head of hair, named as in `python_avatars.HairType`; a long one is raised off the brows and closed behind."""
    piece = _piece(_avatar(top=pa.HairType[style]), "Top")
    return f'<g transform="translate(132 180) scale(1.1 1.16) translate(-132 -180)">{piece}</g>' if long else piece


def hair_behind() -> str:
    """What long hair shows of itself between the head and its front."""
    return '<path d="M66 200V80L100 34H164L198 80V200Z" fill="currentColor" shape-rendering="crispEdges"/>'


def waves() -> str:
    """Wavy locks on both sides."""
    lock = f'<path d="{_WAVE}" stroke="currentColor" stroke-width="20"/>'
    shade = f'<path d="{_WAVE}" stroke="#000" stroke-opacity=".35" stroke-width="4"/>'
    return f'<g fill="none">{_both_sides(lock + shade)}</g>'


def fringe() -> str:
    """Bangs over the whole forehead."""
    return f'<path d="{_FRINGE}" fill="currentColor"/>'


def beard(kind: str) -> str:
    """A beard that leaves the upper lip free, `"full"` along the jaw or a `"goatee"` on the chin."""
    return f'<path d="{_BEARDS[kind]}" fill="currentColor"/>'


@cache
def mustache(style: str) -> str:
    """A mustache, named as in `python_avatars.FacialHairType`, raised off the mouth."""
    piece = _piece(_avatar(top=pa.HairType.SIDES, facial_hair=pa.FacialHairType[style]), "Facial-Hair")
    return f'<g transform="translate(0 -4)">{piece}</g>'


@cache
def glasses(style: str) -> str:
    """Spectacles, named as in `python_avatars.AccessoryType`."""
    frame = _piece(_avatar(top=pa.HairType.SIDES, accessory=pa.AccessoryType[style]), "Accessory")
    return f'<g transform="translate(0 3)">{frame}</g>'


@cache
def eyes(style: str, *, narrow: bool) -> str:
    """A pair of eyes, named as in `python_avatars.EyeType`; narrow ones are less than half as high as the others."""
    piece = _piece(_avatar(eyes=pa.EyeType[style]), "Face")
    return f'<g transform="translate(0 112) scale(1 {0.5 if narrow else 1.2}) translate(0 -112)">{piece}</g>'


@cache
def nose(style: str, *, big: bool) -> str:
    """A nose, named as in `python_avatars.NoseType`, in a darker shade; a big one is twice as large as the others."""
    piece = re.sub(r'fill-opacity="0?\.16"', 'fill-opacity=".3"', _piece(_avatar(nose=pa.NoseType[style]), "Face"))
    return f'<g transform="translate(132 134) scale({1.75 if big else 0.85}) translate(-132 -134)">{piece}</g>'


@cache
def mouth(style: str) -> str:
    """A mouth, named as in `python_avatars.MouthType`, between lips of the current colour."""
    lips = f'<path d="{_LIPS[style]}" transform="translate(78 134)"/>'
    line = 'fill="none" stroke="currentColor" stroke-width="10" stroke-linejoin="round" stroke-linecap="round"'
    return f"<g {line}>{lips}</g>{_piece(_avatar(mouth=pa.MouthType[style]), 'Face')}"


def brows(*, arched: bool, bushy: bool) -> str:
    """A pair of eyebrows."""
    curve = "M84 93Q101 66 118 91" if arched else "M84 90Q101 86 118 91"
    line = f'fill="none" stroke="#2A1B15" stroke-width="{9 if bushy else 3}" stroke-linecap="round"'
    pair = _both_sides(f'<path d="{curve}"/>')
    return f"<g {line}>{pair}</g>"


def eye_bags() -> str:
    """Bags under both eyes."""
    line = 'fill="none" stroke="#3A1530" stroke-opacity=".5" stroke-width="5"'
    return _both_sides(f'<path d="M93 122Q106 132 119 122" {line}/>')


def cheeks() -> str:
    """Rosy cheeks."""
    return _both_sides('<ellipse cx="92" cy="142" rx="15" ry="11" fill="#FF3D5A" fill-opacity=".55"/>')


def earrings() -> str:
    """A stud in each ear, on top of the hair."""
    return _both_sides('<circle cx="70" cy="144" r="8" fill="currentColor" stroke="#333" stroke-width="2"/>')


def _both_sides(piece: str) -> str:
    return f'{piece}<g transform="translate(264 0) scale(-1 1)">{piece}</g>'


def _avatar(**pieces: Any) -> ElementTree.Element:
    """The SVG tree of an avatar of the given pieces alone.

    python-avatars colours an outline by a rectangle behind a mask; the outline filled with the colour is drawn faster.
    Drop shadows, which no thumbnail shows, are left out for the same reason.
    """
    tree = ElementTree.fromstring(pa.Avatar(**(_BLANK | pieces)).render())
    for parent in list(tree.iter()):
        parent.attrib.pop("filter", None)
        outline = parent.find(f"{_SVG}use")
        for group in list(parent):
            if outline is not None and "mask" in group.attrib and group.get("id", "").endswith("-Color"):
                outline.set("fill", "currentColor")
                parent.remove(group)
    return tree


def _piece(tree: ElementTree.Element, name: str) -> str:
    """The first group of a tree whose identifier ends in `_name`, as SVG."""
    group = next(group for group in tree.iter(f"{_SVG}g") if group.get("id", "").endswith(f"_{name}"))
    return ElementTree.tostring(group, encoding="unicode")
