"""What is deprecated warns, works on, and goes when it said it would."""

import re
from pathlib import Path

import pytest

import blan_layers
from blan_layers._deprecation import deprecated, minor, warn_deprecated

PACKAGE = Path(blan_layers.__file__).parent


@deprecated(since="0.3", removed="0.4", instead="gate")
def weigh(x: int, *, twice: bool = False) -> int:
    """Weigh it."""
    return 2 * x if twice else x


def test_a_deprecated_function_warns_at_its_caller_and_works_on() -> None:
    with pytest.warns(DeprecationWarning, match="deprecated") as warned:
        assert weigh(3, twice=True) == 6
    assert str(warned[0].message) == "weigh is deprecated since 0.3 and will be removed in 0.4. Use gate."
    assert warned[0].filename == __file__
    assert weigh.__doc__ == "Weigh it."


def test_a_deprecated_argument_warns_at_the_caller_of_the_function() -> None:
    def gate(ratio: int | None = None) -> None:
        if ratio is not None:
            warn_deprecated("gate(ratio=)", since="0.3", removed="0.5", instead="gate(reduction_ratio=)")

    with pytest.warns(DeprecationWarning, match=r"^gate\(ratio=\) is deprecated since 0.3") as warned:
        gate(ratio=2)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("removed", ["0.3", "0.3.9", "0.2"])
def test_it_lives_for_a_minor_release_at_least(removed: str) -> None:
    with pytest.raises(ValueError, match=r"^deprecated: removed must be a later minor version than since, got"):
        deprecated(since="0.3", removed=removed, instead="gate")


def test_nothing_outlives_the_version_that_it_was_to_go_in() -> None:
    own = PACKAGE / "_deprecation.py"
    for path in (path for path in PACKAGE.rglob("*.py") if path != own):
        for removed in re.findall(r'removed="([\d.]+)"', path.read_text(encoding="utf-8")):
            assert minor(removed) > minor(blan_layers.__version__), f"{path}: remove what was to go in {removed}"
