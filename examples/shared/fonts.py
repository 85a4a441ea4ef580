"""Fonts for any script: one that is always available, and installed fonts for characters that it lacks."""

import logging
from collections.abc import Iterable
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

_log = logging.getLogger(__name__)

# Included in Matplotlib, which the examples need anyway.
_FOLDER, _NAMES = "matplotlib/mpl-data/fonts/ttf", ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")

_warned: list[str] = []  # warn only once

BOX = "\N{WHITE SQUARE}"
"""Replaces characters that no font has."""


@cache
def own_fonts() -> tuple[Path, Path]:
    """Return the font that is always available, and its bold form."""
    regular, bold = (Path(str(distribution("matplotlib").locate_file(f"{_FOLDER}/{name}"))) for name in _NAMES)
    return regular, bold


def missing(words: str) -> frozenset[str]:
    """Return the characters that this font lacks."""
    if words.isascii():
        return frozenset()
    return frozenset(character for character in words if character.isprintable() and ord(character) not in _own())


@cache
def others(characters: frozenset[str]) -> dict[str, Path]:
    """Return an installed font for each of the characters; one warning names characters that no font has."""
    found: dict[str, Path] = {}
    for path in _installed() if characters else ():
        lacking = characters - set(found)
        if not lacking:
            break
        has = _characters(path)
        found |= {character: path for character in lacking if ord(character) in has}
    if nowhere := sorted(characters - set(found)):
        _warn("".join(nowhere))
    return found


def boxed(words: str) -> str:
    """Return words with a box in place of each character that no font has."""
    lacking = missing(words)
    if not lacking:
        return words
    has = others(lacking)
    return "".join(BOX if character in lacking and character not in has else character for character in words)


def _warn(lacking: str) -> None:
    if _warned:
        return
    _warned.append(lacking)
    shown = lacking[:5] + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
    _log.warning(
        "Pictures show boxes for %s, which no installed font has. Install a font with them, such as Noto Sans CJK.",
        shown,
    )


@cache
def _own() -> frozenset[int]:
    return _characters(own_fonts()[0])


@cache
def _installed() -> tuple[Path, ...]:
    from matplotlib.font_manager import findSystemFonts  # slow to import and rarely needed

    return tuple(sorted(map(Path, findSystemFonts())))


@cache
def _characters(path: Path) -> frozenset[int]:
    """Return the code points of a font, or an empty set for a file that is not a font."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def files_for(texts: Iterable[str]) -> list[Path]:
    """Return the fonts that words need."""
    lacking = frozenset[str]().union(*map(missing, texts))
    return list(dict.fromkeys((*own_fonts(), *others(lacking).values())))
