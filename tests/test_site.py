"""The parts of the site that are made while it is built; MkDocs itself is not needed."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench.method import METHODS

ROOT = Path(__file__).parents[1]


def part(name: str) -> ModuleType:
    """Return a module of docs/generate, which is no package."""
    folder = str(ROOT / "docs" / "generate")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    made: dict[str, str] = part("method_pages").method_pages()
    return made


def built_in() -> list[str]:
    return [
        name
        for name in METHODS.names()
        if METHODS.get(name).__module__.startswith(("methods.", "baselines."))
    ]


@pytest.mark.parametrize("name", built_in())
def test_every_method_has_its_settings_on_a_page(name: str, pages: dict[str, str]) -> None:
    method = METHODS.get(name)
    [page] = [text for text in pages.values() if f"## Settings of `{name}`" in text]
    table = page.partition(f"## Settings of `{name}`")[2].partition("\n## ")[0]
    if "The same as those of" in table:
        return
    for setting in method.tags.reconstructed:
        assert re.search(rf"^\| `{setting}` \|.*\| reconstructed \|$", table, re.MULTILINE)


def test_every_page_leads_to_a_section_in_one_fixed_order(pages: dict[str, str]) -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    found = re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    sections = {title.lower().replace(" ", "-"): body for title, body in found}
    for place, page in pages.items():
        [anchor] = re.findall(r"methods\.md#([\w-]+)\)", page)
        labels = re.findall(r"^- \*\*(\w+)\.\*\* ", sections[anchor], re.MULTILINE)
        if (ROOT / place.replace(".md", ".py")).exists():
            assert labels == ["Decides", "Learns", "Cost", "Differs", "Trap"], place


def test_a_page_shows_formulas_papers_and_our_runs(pages: dict[str, str]) -> None:
    page = pages["methods/sact.md"]
    assert "```text\nN = min{ n : h_1" in page
    assert "| CIFAR-10 | ResNet-32 (pre-act, lrelu) | 91.82 | 0.598 |" in page
    own = pages["methods/cdl.md"]
    assert "| grid, p=4 | resnet20 | 89.85 | 0.906 |" in own
    assert "not distinguishable from a static network of the same cost" in own


def test_a_link_out_of_the_documents_leads_to_a_page_of_that_file() -> None:
    links = part("links")
    text = "See [the contract](../bench/method.py) and [ours](../results/reference)."
    assert links.for_site(text, "api.md", ROOT) == (
        "See [the contract](repository/bench/method.py.md) and "
        "[ours](repository/results/reference/README.md)."
    )
    added = links.all_linked([("api.md", text)], ROOT)
    assert set(added) >= {
        "repository/bench/method.py.md",
        "repository/results/reference/README.md",
    }
    assert added["repository/bench/method.py.md"].startswith("# bench/method.py\n")


@pytest.mark.parametrize(
    ("link", "uri", "moved"),
    [
        ("docs/latency.md#the-rules", "repository/CONTRIBUTING.md", "../latency.md#the-rules"),
        ("../../docs/results.md", "repository/results/reference/README.md", "../../../results.md"),
        ("examples/results.ipynb", "api.md", "examples/results.md"),
        ("../README.md#why", "concepts.md", "index.md#why"),
        ("statistics.md", "concepts.md", "statistics.md"),
        ("https://arxiv.org/abs/1", "concepts.md", "https://arxiv.org/abs/1"),
    ],
)
def test_a_link_is_moved_with_its_page(link: str, uri: str, moved: str) -> None:
    assert part("links").for_site(f"[x]({link})", uri, ROOT) == f"[x]({moved})"


def test_a_link_in_code_stays() -> None:
    text = "```md\n[x](../bench/method.py)\n```\n"
    assert part("links").for_site(text, "api.md", ROOT) == text


def test_all_pages_of_the_documents_are_in_the_navigation() -> None:
    listed = set(re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    written = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert written <= listed
