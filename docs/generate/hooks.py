"""What MkDocs asks for while it builds the site: generated pages, and links that lead somewhere.

Nothing generated is written into docs/. Owns the order of things; the pages are made beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from links import all_linked, for_site
from method_pages import method_pages
from mkdocs.structure.files import File, Files
from notebooks import as_markdown

ROOT = Path(__file__).parents[2]
_PAGES: dict[str, str] = {}
_API = {
    "results in a notebook": [
        "bench.notebook.load_results",
        "bench.notebook.pareto",
        "bench.notebook.verdicts",
        "bench.notebook.front_certainty",
        "bench.notebook.pairs",
        *("bench.own.run", "bench.own.evaluate"),
    ],
    "what the commands do": [
        *(f"bench.api.{name}" for name in ("run", "sweep", "latency", "export", "rows_of")),
        *(f"bench.drawing.{name}" for name in ("results", "pareto", "report")),
        *("bench.api.CommandResult", "bench.api.Failure", "bench.folders.Folders"),
    ],
    "what they can be told": ["bench.options.RunOptions", "bench.sweep.options.SweepOptions"],
}


def on_config(config: Any) -> Any:
    """Put a page for each file in methods/ and baselines/ behind the overview of methods."""
    _PAGES.update(method_pages())
    for entry in config["nav"]:
        if "Methods" in entry:
            entry["Methods"] += [{Path(place).stem: place} for place in _PAGES]
    for notebook in sorted((ROOT / "docs").glob("examples/*.ipynb")):
        _PAGES[f"examples/{notebook.stem}.md"] = as_markdown(notebook)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, and those of files outside docs/ that any page links to."""
    written = [(f.src_uri, f.content_string) for f in files.documentation_pages()]
    wanted = [path for path in _in_nav(config["nav"]) if path.startswith("repository/")]
    index = "".join(f"[x]({'../' + path.removeprefix('repository/')})" for path in wanted)
    _PAGES.update(all_linked([*written, *_PAGES.items(), ("nav.md", index)], ROOT))
    for place, text in _PAGES.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Point links into the site; add what only the site can show."""
    del config, files
    if page.file.src_uri == "api.md":
        markdown += "".join(_reference(title, names) for title, names in _API.items())
    if page.file.src_uri == "methods.md":
        places = [place for place in _PAGES if place.startswith("methods/")]
        links = "".join(f"- [{Path(place).stem}]({place})\n" for place in places)
        markdown += f"\n## Pages of single methods\n\n{links}"
    return for_site(markdown, page.file.src_uri, ROOT)


def _reference(title: str, names: list[str]) -> str:
    return f"\n\n## Reference: {title}\n\n" + "\n\n".join(f"::: {name}" for name in names)


def _in_nav(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [path for entry in entries for path in _in_nav(entry)]
