"""The README's own lines run."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
GUIDE = README.parent / "docs" / "mutual_information.md"


@pytest.mark.parametrize(("page", "least"), [(README, 7), (GUIDE, 5)], ids=["README", "mutual information"])
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, least: int) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= least
    exec(compile("\n".join(blocks), str(page), "exec"), {})  # the pages' code is ours


@pytest.mark.parametrize(
    "path",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/mutual_information.md",
        "examples/blan_facial/README.md",
        "examples/mutual_information/README.md",
        "examples/segmentation/README.md",
        "examples/deep_infomax/README.md",
    ],
)
def test_links_to_files_lead_somewhere(path: str) -> None:
    page = README.parent / path
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert all((page.parent / target).exists() for target in targets), targets
