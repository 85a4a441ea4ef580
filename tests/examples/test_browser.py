"""The pages in a real browser: headless Chromium, as Debian and others package it."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blan_facial.report.run_page import write_report
from tests.examples.pages import as_baseline, table_page, without_labels

DEMANDED = "BLAN_BROWSER"
"""Set to 1, the environment variable turns the lack of a browser from a skip into a failure."""

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
REMEDY = "needs Chromium, got none in the PATH. Install it, on Debian by `apt-get install chromium`."

# The ratio of WCAG of every text on what it lies upon, colours as the browser itself turns them into bytes.
CONTRASTS = """() => {
  const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
    .getContext("2d", {willReadFrequently: true});
  const over = (colors) => {
    pen.clearRect(0, 0, 1, 1);
    for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
    return Array.from(pen.getImageData(0, 0, 1, 1).data);
  };
  const opaque = (color) => over([color])[3] === 255;
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const seen = new Map();
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const element = words.currentNode.parentElement;
    const shown = words.currentNode.textContent.trim().slice(0, 30);
    if (!shown || element.closest("script, .sr, .skip") || !element.getClientRects().length) continue;
    const colors = [];
    for (let at = element; at; at = at.parentElement) {
      colors.unshift(getComputedStyle(at).backgroundColor);
      if (opaque(colors[0])) break;
    }
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [a, b] = [light(over([...colors, ink])), light(over(colors))].sort((x, y) => y - x);
    const key = `${element.tagName}.${element.className.baseVal ?? element.className}: ${shown}`;
    seen.set(key, (a + 0.05) / (b + 0.05));
  }
  return Array.from(seen).filter(([, ratio]) => ratio < 4.5).map(([key, ratio]) => `${key} (${ratio.toFixed(2)})`);
}"""

Visit = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        if os.environ.get(DEMANDED) == "1":
            pytest.fail(f"the browser tests are demanded by {DEMANDED}=1: {REMEDY}")
        pytest.skip(REMEDY)
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]  # root has no sandbox
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of all kinds."""
    folder = tmp_path_factory.mktemp("pages")

    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_run, folder / name))

    unfinished = copy("a-run-with-quite-a-long-name-and-no-place-to-break-it")
    (unfinished / "metrics.json").unlink()
    return {
        "run": tiny_run / "report.html",
        "baseline": as_baseline(copy("baseline")),
        "unknown": without_labels(copy("unknown"), "Bald"),
        "unfinished": write_report(unfinished, None),
        "table": table_page("table4", tiny_run, folder / "table4"),
        "figure": table_page("figure3", tiny_run, folder / "figure3"),
    }


@contextmanager
def visit(browser: Any, path: Path, *, width: int = 1280, **options: Any) -> Iterator[Any]:
    """Open a page; nothing may be asked of anyone, and nothing may go wrong, as long as it is open."""
    context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce", **options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.extend([request.url] * (not request.url.startswith("data:"))))
    page.goto(path.as_uri())
    assert wrong == [path.as_uri()]  # the one request
    yield page
    assert wrong == [path.as_uri()]
    context.close()


def column(page: Any, table: str, number: int) -> list[str]:
    cells = page.locator(f"{table} table.sortable tbody tr > :nth-child({number})")
    return [words.split("\n")[0].strip() for words in cells.all_inner_texts()]


@pytest.mark.parametrize("name", ["run", "baseline", "unknown", "unfinished", "table", "figure"])
def test_loads_nothing_shows_everything_and_fits_a_phone(browser: Any, pages: dict[str, Path], name: str) -> None:
    for width in (1280, 390):
        with visit(browser, pages[name], width=width) as page:
            assert (
                page.evaluate("[...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.alt)")
                == []
            )
            assert page.evaluate("document.scrollingElement.scrollWidth") == width
            assert page.evaluate("document.images.length > 50") == (name == "run")


def test_the_table_of_attributes_fits_a_narrow_window(browser: Any, pages: dict[str, Path]) -> None:
    as_of_celeba = """box => {
      for (const row of box.querySelectorAll("tr")) row.insertAdjacentHTML("beforeend", "<td>91.80 paper</td>");
      box.querySelector("tbody th").textContent = "Mouth_Slightly_Open_";
      return box.scrollWidth - box.clientWidth;
    }"""
    with visit(browser, pages["run"], width=1100) as page:
        assert page.get_by_role("region", name="Metrics of each attribute").evaluate(as_of_celeba) == 0


@pytest.mark.parametrize("name", ["run", "unfinished", "table"])
def test_texts_stand_out_in_light_and_dark(browser: Any, pages: dict[str, Path], name: str) -> None:
    papers = []
    for scheme in ("light", "dark"):
        with visit(browser, pages[name], color_scheme=scheme) as page:
            page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
            assert page.evaluate(CONTRASTS) == []
            papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers == ["rgb(247, 246, 243)", "rgb(18, 20, 26)"]


def test_a_heading_sorts_by_number_and_by_name(browser: Any, pages: dict[str, Path]) -> None:
    metrics = json.loads((pages["unknown"].parent / "metrics.json").read_text())
    names = [name.replace("_", " ") for name in metrics["per_attribute"]]
    values = {name: of["accuracy"] for name, of in zip(names, metrics["per_attribute"].values(), strict=True)}
    assert values.pop("Bald") is None
    with visit(browser, pages["unknown"]) as page:
        assert column(page, "#attributes", 1) == names
        heading = page.locator("#attributes thead th", has_text="accuracy").first
        for order, falling in (("descending", True), ("ascending", False)):
            heading.get_by_role("button").press("Enter")
            assert heading.get_attribute("aria-sort") == order
            shown = column(page, "#attributes", 1)
            assert shown != names
            assert shown[-1] == "Bald"  # what is unknown stays last
            found = [values[name] for name in shown[:-1]]
            assert found == sorted(found, reverse=falling)
        name = page.locator("#attributes thead th").first
        for order, falling in (("ascending", False), ("descending", True)):
            name.get_by_role("button").click()
            assert name.get_attribute("aria-sort") == order
            assert heading.get_attribute("aria-sort") is None
            assert column(page, "#attributes", 1) == sorted(names, reverse=falling)
        assert page.locator("#attributes tfoot th").inner_text() == "Average"


def test_level_and_opacity_change_the_maps(browser: Any, pages: dict[str, Path]) -> None:
    with visit(browser, pages["run"]) as page:
        face = page.locator(".over figure").first
        slider = page.get_by_label("Opacity")
        assert face.locator(".gate:visible").get_attribute("class") == "gate gate-1"
        seen = [face.screenshot()]
        for level in (2, 3):
            page.locator(f"label[for=show-{level}]").click()
            assert (
                page.locator(".over figure").first.locator(".gate:visible").get_attribute("class")
                == f"gate gate-{level}"
            )
            seen.append(face.screenshot())
        slider.fill("20")
        assert page.locator("output").inner_text() == "20\u202f%"
        seen.append(face.screenshot())
        assert len(set(seen)) == 4
        slider.fill("0")
        bare = face.screenshot()
        page.locator("label[for=show-1]").click()
        assert face.screenshot() == bare  # without a map the level makes no difference


def test_without_javascript_all_tables_and_levels_are_there(browser: Any, pages: dict[str, Path]) -> None:
    with visit(browser, pages["run"], java_script_enabled=False) as page:
        assert page.locator("table").count() >= 7
        assert page.locator("th button").count() == 0
        assert not page.locator(".slider").is_visible()
        metrics = json.loads((pages["run"].parent / "metrics.json").read_text())
        assert len(column(page, "#attributes", 1)) == len(metrics["per_attribute"])
        page.locator("label[for=show-3]").click()
        assert page.locator(".gate-3").first.is_visible()
        assert not page.locator(".gate-1").first.is_visible()
        page.locator("summary").click()
        assert page.get_by_role("table", name="Means of each epoch").is_visible()
