"""Pages of real builds, and a parser that sees what a reader would."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa

import curation
from tests.cli.project import make_project

NO_STAGES = """\
recipe: 1
name: plain
seed: 1
inputs:
  people: {path: data/people.parquet}
output: {path: build/plain}
"""


class Page(HTMLParser):
    """Text, tags and addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.handlers: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.addresses.append(str(value))
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.open[-1:]:
            self.words += data.split()

    @property
    def text(self) -> str:
        return " ".join(self.words)


def build_of(folder: Path, recipe: str = NO_STAGES, table: pa.Table | None = None, **options: Any) -> curation.Build:
    """Build a recipe over one table."""
    return curation.build(make_project(folder, recipe, table), **options)


def html_of(build: curation.Build) -> str:
    """Page that the build has written."""
    path = build.manifest.path("report")
    assert path is not None
    return path.read_text("utf-8")
