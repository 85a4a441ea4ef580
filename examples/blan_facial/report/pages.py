"""Writing pages from templates: self-contained files with style, script and pictures, which may load nothing."""

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
    """Fill a template and write the page atomically.

    All inserted content is escaped. The content security policy of the page allows only its own script, by hash, and
    forbids loading anything.

    Args:
        path: The file.
        template: File name in the folder of templates.
        **content: Variables of the template.
    """
    text = _templates().get_template(template).render(**content)
    with replacing(path) as file:
        file.write(text.encode())


def percent(value: float | None, digits: int = 1) -> str:
    """Format a fraction in percent, without the percent sign."""
    return NOTHING if value is None else f"{100 * value:.{digits}f}"


def points(value: float | None) -> str:
    """Format a difference of fractions in percentage points, with its sign."""
    return NOTHING if value is None else f"{100 * value:+.1f}".replace("-", "\N{MINUS SIGN}")


def fixed(value: float | None, digits: int = 3) -> str:
    """Format a number with a fixed number of decimals."""
    return NOTHING if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def chance(value: float | None) -> str:
    """Format a p-value."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int | None) -> str:
    """Format an integer with separated thousands."""
    return NOTHING if value is None else f"{value:,}"


def duration(seconds: float) -> str:
    """Format a duration in its two largest units."""
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
