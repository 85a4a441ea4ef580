"""The house: who may import whom, what importing costs, and what the package offers."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import blan_layers
import blan_layers.functional

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "blan_layers"
OWN = "blan_layers"

# Everything a part may import; what is shared by all of them is named below.
ALLOWED = {
    "kernels": set(),
    "functional": {"kernels"},
    "attention": {"functional"},
    "mutual_information": {"functional"},
    "fusion": {"functional"},
    "networks": {"attention"},
    "convert": {"attention"},
    "integrations": {"attention", "networks"},
    "plotting": set(),
    "estimation": {"functional"},
}
SHARED = {"_checks", "_deprecation", "_init", "_module", "_torch"}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_leftwards(path: Path) -> None:
    part = part_of(path)
    own = {name.split(".")[1] for name in imported_modules(path) if name.startswith(f"{OWN}.")}
    allowed = SHARED if part in SHARED else SHARED | ALLOWED[part] | {part}
    assert own <= allowed, f"{part} may not import {sorted(own - allowed)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_nothing_beyond_the_core_packages(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported_modules(path)}
    optional = {"triton"} if PACKAGE / "kernels" / "gpu" in path.parents else set()
    optional |= {"matplotlib"} if path == PACKAGE / "plotting.py" else set()
    assert roots - set(sys.stdlib_module_names) <= {OWN, "torch", "einops", "numpy"} | optional


def test_every_part_of_the_package_is_in_the_rule() -> None:
    assert {part_of(path) for path in SOURCES} == set(ALLOWED) | SHARED


def test_importing_brings_in_neither_the_example_nor_its_packages() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import blan_layers; "
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    third_party = set(loaded.split()) - set(sys.stdlib_module_names)
    assert third_party <= {OWN, "einops", "numpy"}


def test_public_names_are_documented_and_there() -> None:
    for module in (blan_layers, blan_layers.functional):
        for name in module.__all__:
            documentation = getattr(module, name).__doc__
            if name in ("reference", "Insertion"):
                continue
            computes = module is not blan_layers or inspect.isclass(getattr(module, name))
            sections = ("Args:", "Raises:", "Example:", *(("Shape:", "Reference:") if computes else ()))
            assert all(section in documentation for section in sections), name


def test_importing_leaves_the_random_state_alone() -> None:
    code = (
        "import torch; torch.manual_seed(3); a = torch.get_rng_state(); import blan_layers; "
        "assert torch.equal(a, torch.get_rng_state())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_constructing_on_meta_draws_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    blan_layers.RDAM(8, device="meta")
    assert torch.equal(torch.get_rng_state(), before)


# The example's wings: what each may import beside itself.
GROUND = {"config", "published"}
WINGS = {
    "machines": GROUND,
    "data": GROUND | {"machines"},
    "network": GROUND | {"data"},
    "training": GROUND | {"machines", "data", "network"},
    "results": GROUND | {"data", "network", "training"},
    "prediction": GROUND | {"data", "network", "training", "results"},
    "report": GROUND | {"data", "network", "training", "results"},
    "tables": GROUND | {"machines", "data", "network", "training", "results", "report"},
}
EXAMPLE = ROOT / "examples" / "blan_facial"


@pytest.mark.parametrize("wing", WINGS)
def test_imports_in_the_example_point_leftwards(wing: str) -> None:
    for path in (EXAMPLE / wing).rglob("*.py"):
        own = {name.split(".")[1] for name in imported_modules(path) if name.startswith("blan_facial.")}
        assert own <= WINGS[wing] | {wing}, f"{path.relative_to(ROOT)} may not import {sorted(own - WINGS[wing])}"


def test_the_ground_of_the_example_imports_nothing_of_it() -> None:
    for name in GROUND:
        assert not any(name.startswith("blan_facial") for name in imported_modules(EXAMPLE / f"{name}.py"))


def test_every_wing_of_the_example_is_in_the_rule() -> None:
    assert {path.name for path in EXAMPLE.iterdir() if (path / "__init__.py").exists()} == set(WINGS)


# What each example may import of the others.
EXAMPLES = {
    "shared": set(),
    "mutual_information": {"shared"},
    "segmentation": {"shared"},
    "deep_infomax": {"shared", "blan_facial.data"},
    "blan_facial": {"shared"},
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_import_of_one_another_what_is_named_alone(example: str) -> None:
    allowed = EXAMPLES[example] | {example}
    for path in (ROOT / "examples" / example).rglob("*.py"):
        others = {name for name in imported_modules(path) if name.split(".")[0] in EXAMPLES}
        odd = {name for name in others if not any(f"{name}.".startswith(f"{place}.") for place in allowed)}
        assert not odd, f"{path.relative_to(ROOT)} may not import {sorted(odd)}"


def test_every_example_is_in_the_rule() -> None:
    assert {path.parent.name for path in (ROOT / "examples").glob("*/__init__.py")} == set(EXAMPLES)
