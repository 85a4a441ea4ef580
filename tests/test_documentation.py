"""What README, guides and site say: their lines run, their links lead somewhere, and nothing public is left out."""

import ast
import re
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

import blan_layers
import blan_layers.functional

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
GITHUB = re.compile(r"https://(?:github\.com|raw\.githubusercontent\.com)/blan-layers/blan-layers/(?:blob/)?main/")
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
GUIDES = [path for path in PAGES if "```python\n" in path.read_text(encoding="utf-8")]
LINKED = [
    *PAGES,
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    ROOT / "benchmarks" / "README.md",
]


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def missing_packages(block: str) -> set[str]:
    """Return what a block imports that is not installed."""
    names = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return {root for root in {name.split(".")[0] for name in names} if find_spec(root) is None}


def place(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.filterwarnings("ignore")  # other libraries remark on themselves
@pytest.mark.parametrize("page", GUIDES, ids=place)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    blocks = [block for block in blocks_of(page) if not missing_packages(block)]
    assert blocks
    exec(compile("\n".join(blocks), str(page), "exec"), {})  # the pages' code is ours


@pytest.mark.parametrize("index", range(3))
def test_each_snippet_of_the_readme_runs_when_copied_alone(
    index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(README)
    assert len(blocks) == 3
    exec(compile(blocks[index], str(README), "exec"), {})


def test_the_readme_fits_one_screen_and_the_package_index() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    assert "drop_last=True" in text
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", text))


def targets_of(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def anchors_of(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKED, ids=place)
def test_links_lead_somewhere_without_a_network(page: Path) -> None:
    for target in targets_of(page):
        inside = GITHUB.match(target)
        if target.startswith(("http", "mailto:")) and not inside:
            continue
        path, _, anchor = (target[inside.end() :] if inside else target).partition("#")
        file = (ROOT / path if inside else page.parent / path) if path else page
        assert file.exists(), f"{place(page)} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{place(page)} links to {target}"


def test_everything_public_is_in_the_reference_and_among_the_modules() -> None:
    reference = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.rst"))
    modules = (DOCS / "modules.md").read_text(encoding="utf-8")
    for name in blan_layers.__all__:
        assert f":: blan_layers.{name}\n" in reference, name
        assert f"{name}" in modules or name == "Insertion", name
    for name in set(blan_layers.functional.__all__) - {"reference"}:
        assert f":: blan_layers.functional.{name}\n" in reference, name


def test_every_page_is_in_the_table_of_contents() -> None:
    contents = (DOCS / "index.md").read_text(encoding="utf-8")
    pages = [path.relative_to(DOCS).with_suffix("") for path in [*PAGES, *(DOCS / "api").glob("*.rst")]]
    listed = re.findall(r"^[\w/]+\*?$", contents, re.MULTILINE)
    for page in {page.as_posix() for page in pages} - {"index"}:
        assert any(fnmatch(page, entry) for entry in listed), page
