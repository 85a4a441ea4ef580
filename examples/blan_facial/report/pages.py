"""From a template to a file: one page that holds its style, its script and its pictures, and may load nothing."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from blan_facial.data.attributes import spoken
from shared.files import replacing

TEMPLATES = Path(__file__).with_name("templates")
STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")
NOTHING = "\N{EN DASH}"


def write_page(path: Path, template: str, **content: Any) -> None:
    """Fill a template and write the page, whole or not at all.

    Everything that is filled in is escaped. The page's own policy lets a browser run its one script, by that one's
    hash, and load nothing at all.

    Args:
        path: The file.
        template: Name of a file in the folder of the templates.
        **content: What the template speaks of.
    """
    text = _templates().get_template(template).render(**content)
    with replacing(path) as file:
        file.write(text.encode())


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction in percent, without the sign."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """Write a difference of fractions in percentage points, with its sign."""
    return NOTHING if value is None else f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def fixed(value: float | None, digits: int = 3) -> str:
    """Write a number with so many digits behind the point."""
    return NOTHING if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def chance(value: float | None) -> str:
    """Write a p-value."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int | None) -> str:
    """Write a whole number with its thousands apart."""
    return NOTHING if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """Write a span of time in the two largest units that it has."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        style=Markup(STYLE),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    )
    filters = (percent, points, fixed, chance, count, duration, spoken)
    environment.filters.update({function.__name__: function for function in filters})
    return environment
