"""The documentation as a site: the navigation has every page, links lead somewhere, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .commands import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
READ_ELSEWHERE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"^ {4}.*$|^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def settings() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8")))


def pages_of(nav: Any) -> Iterator[str]:
    """The files that a navigation names."""
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from pages_of(part)


def made_pages() -> set[str]:
    """Those that docs/site_pages.py adds."""
    return {"cli.md", *(f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb"))}


def anchors(path: Path) -> set[str]:
    """The names of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


def test_the_navigation_has_every_page_once() -> None:
    named = list(pages_of(settings()["nav"]))
    assert len(named) == len(set(named))
    assert set(named) == {path.relative_to(DOCS).as_posix() for path in PAGES} | made_pages()


def test_the_four_kinds_of_documentation_are_there() -> None:
    sections = [next(iter(part)) for part in settings()["nav"] if isinstance(part, dict)]
    assert sections == ["Tutorial", "How-to", "Reference", "Explanation"]


@pytest.mark.parametrize("path", [*PAGES, *READ_ELSEWHERE], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    for link in _LINK.findall(_CODE.sub("", path.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.is_file() and target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


def test_a_link_that_leads_nowhere_would_be_found(tmp_path: Path) -> None:
    assert "a-tile-in-2-steps" in anchors_of("# A tile, in 2 steps\n", tmp_path)
    assert "not-this" not in anchors_of("    # not this\n```\n# not this\n```\n", tmp_path)
    assert _LINK.findall(_CODE.sub("", "[a](b.md#c) `[d](e.md)`")) == ["b.md#c"]


def anchors_of(text: str, folder: Path) -> set[str]:
    (folder / "page.md").write_text(text, encoding="utf-8")
    return anchors(folder / "page.md")


def test_a_reader_needs_no_network() -> None:
    found = settings()
    assert found["theme"]["font"] is False
    assert not {"extra_javascript", "extra_css", "repo_url"} & set(found)
    assert "search" in found["plugins"]


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: `make docs` brings it")
    monkeypatch.setenv("SYSTOLORA_NOTEBOOK_STEPS", "3")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in (*pages_of(settings()["nav"]), "404.md"):
        text = (site / page).with_suffix(".html").read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="([^"]+)"', text)
        assert not [source for source in loaded if "//" in source and not source.startswith("data:")], page
    assert "--learning-rate" in (site / "cli.html").read_text(encoding="utf-8")
    assert "stochastic rounding" in (site / "api.html").read_text(encoding="utf-8")
    assert len(list((site / "notebooks").glob("*.png"))) == 8
