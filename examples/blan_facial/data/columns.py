"""The meaning of a table's columns: image, split, person, and how the others define attributes.

Without a mapping, image, split and person are recognised by their names, and the other columns are attributes with the
values yes, no and unknown. A mapping in TOML or JSON describes any table:

    image = "file"                      # columns with other names
    person = "Identity"

    [split]                             # values of a column, with * as wildcard; or shares: train = 80, test = 20
    column = "file"
    train = ["train/*"]
    test = ["val/*"]

    [attributes]                        # with attributes or categories, no other columns are read
    Smiling = {}                        # the column of that name, with yes, no and unknown
    Male = { column = "gender", yes = ["Male"] }
    Senior = { column = "age", at_least = 60 }

    [categories]
    race = []                           # an attribute for each value, or for the listed values
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from blan_facial.data.faces import SPLITS, UNKNOWN, DataError
from blan_facial.data.faults import Faults

if sys.version_info >= (3, 11):
    import tomllib

Unknown = Literal["zero", "minus-one"]
"""Which of 0 and -1 means unknown; the other means no."""

ZERO, MINUS_ONE = -2, -3
"""Codes of the labels 0 and -1, whose meaning depends on the whole table."""

IMAGE, SPLIT, PERSON = "image", "split", "person"

NAMES = {
    IMAGE: ("image", "filename", "file_name", "file", "image_id", "path", "img_name"),
    SPLIT: ("split", "partition"),
    PERSON: ("person", "identity", "celeb_id"),
}
"""Names of the columns that are not attributes, in any case."""

SPLIT_VALUES = {
    **{split: split for split in SPLITS},
    **{"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"},
}
"""The names of the splits, in lower case."""

MISSING = frozenset(("", "nan", "na", "n/a", "none", "null", "unknown", "?"))
"""Cells that mean unknown, in lower case."""

_CODES = {
    **dict.fromkeys(("1", "true", "yes"), 1),
    **dict.fromkeys(("false", "no"), 0),
    **dict.fromkeys(MISSING, UNKNOWN),
    "0": ZERO,
    "-1": MINUS_ONE,
}
_PLAIN = "1, true or yes (present), 0, -1, false or no (absent), or empty (unknown)"

_STARS_ALONE = re.compile(r"[?\[]")  # the other special characters of patterns

_KEYS = (IMAGE, SPLIT, PERSON, "attributes", "categories")
_RULES = ("column", "yes", "no", "unknown", "at_least", "below")

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+", re.ASCII)  # ambiguous: decimal comma or thousands separators

Reading = Callable[[str], int | None]
"""Maps a cell to its label or code; None for an invalid cell."""


class Attribute(NamedTuple):
    """An attribute, its column, and how cells are read."""

    name: str
    column: str
    read: Reading
    expected: str
    """The valid cells, for messages."""


@dataclass(frozen=True)
class Columns:
    """The content of a mapping; by default empty, so that columns are recognised by their names."""

    image: str | None = None
    split: str | None = None
    person: str | None = None
    patterns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Patterns for the values of the split column, by split."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Share of the people, or of the images, in each split, without a split column."""
    attributes: Sequence[Attribute] | None = None
    categories: Mapping[str, Sequence[str]] | None = None
    """Columns with an attribute per value, and the values to use; an empty list means all that occur."""

    @property
    def chosen(self) -> bool:
        """Whether the mapping selects the attribute columns."""
        return self.attributes is not None or self.categories is not None

    def splits_of(self, value: str) -> list[str]:
        """Return the splits that a cell matches: none if it matches none, several if it is ambiguous."""
        folded = fold(value)
        if not self.patterns:
            return [SPLIT_VALUES[folded]] if folded in SPLIT_VALUES else []
        return [
            split
            for split, patterns in self.patterns.items()
            if any(fnmatchcase(folded, _STARS_ALONE.sub(r"[\g<0>]", fold(pattern))) for pattern in patterns)
        ]

    def part_of(self, key: str) -> str:
        """Return the split assigned to a person or an image, independent of the rest of the table."""
        place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64 * sum(self.parts.values())
        for split, part in self.parts.items():
            place -= part
            if place < 0:
                return split
        return next(reversed(list(self.parts)))


def plain(name: str) -> Attribute:
    """Return the attribute of a column with yes, no and unknown."""
    return Attribute(name, name, _plain_code, _PLAIN)


def read_columns(path: Path) -> Columns:
    """Read a mapping.

    Raises:
        DataError: The file is not TOML or JSON, or its content is invalid.
    """
    content = _load(path)
    faults = Faults(path)
    for key in content:
        if key not in _KEYS:
            faults.add(f"entries must be {', '.join(_KEYS)}, got {key!r}. Remove it, or correct its name.")
    split, patterns, parts = _read_split(content.get(SPLIT), faults)
    columns = Columns(
        image=_read_name(content, IMAGE, faults),
        split=split,
        person=_read_name(content, PERSON, faults),
        patterns=patterns,
        parts=parts,
        attributes=_read_attributes(content.get("attributes"), faults),
        categories=_read_categories(content.get("categories"), faults),
    )
    faults.refuse()
    return columns


def _load(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_once)
        elif sys.version_info >= (3, 11):
            content = tomllib.loads(text)
        else:
            raise DataError(f"{path}: must be JSON for Python before 3.11, got TOML. Write it as JSON.")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"{path}: must be a TOML or JSON file, got no such file. Name it with --columns.") from error
    except DataError:
        raise
    except (ValueError, RecursionError) as error:  # from the parsers and the decoder
        raise DataError(
            f"{path}: must be TOML, or JSON with a name ending in .json, got {error}. Correct it."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a table of entries, got {type(content).__name__}. Write {', '.join(_KEYS)}.")
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, without repeated names, as in TOML."""
    names = [name for name, _ in pairs]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"the entry {repeated[0]!r} twice")
    return dict(pairs)


def _read_name(content: Mapping[str, Any], key: str, faults: Faults) -> str | None:
    name = content.get(key)
    if name is not None and not (isinstance(name, str) and name):
        faults.add(f"{key} must be the name of a column, got {name!r}. Write it in quotes.")
        return None
    return name


def _read_split(entry: Any, faults: Faults) -> tuple[str | None, dict[str, list[str]], dict[str, float]]:
    if entry is None or (isinstance(entry, str) and entry):
        return entry, {}, {}
    if not isinstance(entry, dict):
        faults.add(f"split must be a column's name or a table, got {entry!r}. Name the column.")
        return None, {}, {}
    for key in entry:
        if key not in ("column", *SPLITS):
            faults.add(f"split may contain column, {', '.join(SPLITS)}, got {key!r}. Remove it, or correct its name.")
    column, given = entry.get("column"), {split: entry[split] for split in SPLITS if split in entry}
    if column is not None:
        patterns = {split: values for split, value in given.items() if (values := _listed(value)) is not None}
        if len(patterns) < len(given) or not isinstance(column, str):
            faults.add(f"split must name its column and list the values of each split, got {entry!r}. Write lists.")
            return None, {}, {}
        return column, patterns, {}
    if not given or not all(_is_number(part) and part > 0 for part in given.values()):
        faults.add(
            f"split must name its column, or give the share of each split as a number, got {entry!r}. Write one."
        )
        return None, {}, {}
    return None, {}, given


def _read_attributes(entry: Any, faults: Faults) -> list[Attribute] | None:
    if entry is None:
        return None
    if (names := _names(entry)) is not None:
        _refuse_twice("attributes", names, faults)
        entry = {name: {} for name in names}
    if not isinstance(entry, dict):
        faults.add(f"attributes must be a list of columns, or a table, got {entry!r}. Write a list of names.")
        return None
    return [attribute for name, rule in entry.items() if (attribute := _read_attribute(name, rule, faults))]


def _read_attribute(name: str, rule: Any, faults: Faults) -> Attribute | None:
    if not isinstance(rule, dict):
        faults.add(f"attributes: {name} must be a table, got {rule!r}. Write {{}} for a column with yes and no.")
        return None
    column = rule.get("column", name)
    lists = {key: _listed(rule[key]) for key in ("yes", "no", "unknown") if key in rule}
    bounds = {key: rule[key] for key in ("at_least", "below") if key in rule}
    for key in rule:
        if key not in _RULES:
            faults.add(f"attributes: {name} may contain {', '.join(_RULES)}, got {key!r}. Correct its name.")
    if not (isinstance(column, str) and column):
        faults.add(f"attributes: {name}: column must be a column's name, got {column!r}. Write it in quotes.")
    if any(values is None for values in lists.values()):
        faults.add(f"attributes: {name}: yes, no and unknown must be lists of values. Write yes = [1], for example.")
    elif repeated := [value for value, count in _counted(lists).items() if count > 1]:
        faults.add(f"attributes: {name}: a value must have one meaning, got {repeated[0]!r} twice. Remove one.")
    if not all(_is_number(bound) for bound in bounds.values()):
        faults.add(f"attributes: {name}: at_least and below must be finite numbers, got {bounds}. Write at_least = 60.")
    elif bounds and {"yes", "no"} & set(lists):
        faults.add(f"attributes: {name} must have bounds or lists of yes and no, got both. Remove one of them.")
    elif lists and not bounds and "yes" not in lists:
        faults.add(f"attributes: {name} must list the values that mean yes, got only {', '.join(lists)}. Add yes.")
    elif "below" in bounds and bounds.get("at_least", -math.inf) >= bounds["below"]:
        faults.add(f"attributes: {name}: at_least must be smaller than below, got {bounds}. Correct the numbers.")
    else:
        return _attribute(name, str(column), {key: values or [] for key, values in lists.items()}, bounds)
    return None


def _attribute(name: str, column: str, lists: Mapping[str, Sequence[str]], bounds: Mapping[str, float]) -> Attribute:
    if not lists and not bounds:
        return plain(column)._replace(name=name)
    unknown = frozenset(fold(value) for value in lists.get("unknown", ())) | MISSING
    if bounds:
        low, high = bounds.get("at_least", -math.inf), bounds.get("below", math.inf)

        def between(cell: str) -> int | None:
            if fold(cell) in unknown:
                return UNKNOWN
            number = _number(cell)
            return None if number is None else int(low <= number < high)

        return Attribute(name, column, cache(between), "a number, or empty (unknown)")
    yes, no = (frozenset(fold(value) for value in lists.get(key, ())) for key in ("yes", "no"))

    def listed(cell: str) -> int | None:
        value = fold(cell)
        if value in yes or value in no:
            return int(value in yes)
        if value in unknown:
            return UNKNOWN
        return None if "no" in lists else 0

    expected = "; ".join(f"{', '.join(values)} ({key})" for key, values in lists.items())
    return Attribute(name, column, cache(listed), f"{expected}, as given in --columns")


def _read_categories(entry: Any, faults: Faults) -> dict[str, list[str]] | None:
    if entry is None:
        return None
    if (names := _names(entry)) is not None:
        _refuse_twice("categories", names, faults)
        return {name: [] for name in names}
    lists = {name: _listed(values) for name, values in entry.items()} if isinstance(entry, dict) else {"": None}
    if None in lists.values():
        faults.add(f"categories must be a list of columns, or list their values, got {entry!r}. Write a list.")
        return None
    for name, values in lists.items():
        for value, count in _counted({name: values}).items():
            if count > 1:
                faults.add(f"categories: {name}: a value must be listed once, got {value!r} twice. Remove one.")
    return {name: values or [] for name, values in lists.items()}


def _counted(lists: Mapping[str, Sequence[str] | None]) -> dict[str, int]:
    folded = [fold(value) for values in lists.values() for value in values or ()]
    return {value: folded.count(value) for value in folded}


def _listed(values: Any) -> list[str] | None:
    """Return a list of values as text; None if it is not a list of values."""
    if not isinstance(values, list) or not all(isinstance(value, str | int | float) for value in values):
        return None
    return [str(value) for value in values]


def _names(entry: Any) -> list[str] | None:
    return entry if isinstance(entry, list) and all(isinstance(name, str) for name in entry) else None


def _refuse_twice(key: str, names: Sequence[str], faults: Faults) -> None:
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        faults.add(f"{key} must name each column once, got {name} twice. Remove one of the two.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _number(cell: str) -> float | None:
    """Return a finite number with a decimal point or comma; None if the cell is not a number or is ambiguous."""
    if not _NUMBER.fullmatch(cell) or _GROUPED.fullmatch(cell):
        return None
    number = float(cell.replace(",", "."))
    return number if math.isfinite(number) else None


def fold(cell: str) -> str:
    """Return a cell in lower case, and a number with all its digits in a canonical format."""
    number = _number(cell)
    if not number:
        return cell.casefold() if number is None else "0"
    digits = f"{Decimal(cell.replace(',', '.')):f}"  # exact, since identifiers may be longer than a float
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def without_effect(unknown: Unknown) -> str:
    """Return the note on an option ``--unknown`` whose number does not occur among the labels."""
    return f"No label is {'0' if unknown == 'zero' else '-1'}, so --unknown {unknown} has no effect."


@cache
def _plain_code(cell: str) -> int | None:
    return _CODES.get(fold(cell))
