"""The README's own lines run."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_readme_s_python_runs_from_top_to_bottom() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 7
    exec(compile("\n".join(blocks), str(README), "exec"), {})  # the README's code is ours


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "examples/blan_facial/README.md",
        "examples/mutual_information/README.md",
        "examples/segmentation/README.md",
    ],
)
def test_links_to_files_lead_somewhere(path: str) -> None:
    page = README.parent / path
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert all((page.parent / target).exists() for target in targets), targets
