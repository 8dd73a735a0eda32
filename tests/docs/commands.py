"""What README.md, CONTRIBUTING.md and docs/*.md tell a reader to type: commands in code blocks and in backquotes, and Python in code blocks."""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))

_COMMAND = re.compile(r"(systolora|make|python|torchrun|accelerate|pytest|pip) |make$|tests/\S+\.sh$")
_PYTHON = re.compile(r"(from|import) \w[\w.]*")


@dataclass(frozen=True)
class Command:
    """One command as a page has it, without its comment and what it redirects."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """As a shell takes it apart."""
        return shlex.split(self.text)


def find_commands() -> list[Command]:
    """Every command of every page, each text once."""
    found: dict[str, Command] = {}
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            block = [re.split(r"\s+#\s", line.strip())[0]] if line.startswith("    ") else []
            for text in [*block, *re.findall(r"`([^`]+)`", line)]:
                text = text.split(" > ")[0].strip()
                if _COMMAND.match(text):
                    found.setdefault(text, Command(page.name, text))
    return list(found.values())


def find_code() -> list[tuple[str, str]]:
    """Code blocks that import something: (page, source)."""
    found = []
    for page in PAGES:
        for block in re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", page.read_text(encoding="utf-8"), re.MULTILINE):
            source = "\n".join(line[4:] for line in block.splitlines())
            if any(_PYTHON.match(line) for line in source.splitlines()):
                found.append((page.name, source))
    return found


def find_block(page: str, first: str, blank: bool = False) -> str:
    """The code block of a page that begins with a line: a file that a reader is shown. `blank`: empty lines do not end it."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    begin = lines.index(f"    {first}")
    block = itertools.takewhile(lambda line: line.startswith("    ") or (blank and not line), lines[begin:])
    return "".join(f"{line[4:]}\n" for line in block).rstrip("\n") + "\n"


def find_printed(page: str) -> list[tuple[str, list[str]]]:
    """What a page shows of what a command prints: (the command of the code block just above, lines of the text block)."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^ {4}(\S.*)\n\n```text\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)
    return [(command, printed.splitlines()) for command, printed in found]


def find_names() -> list[tuple[str, str]]:
    """Dotted names of the package in backquotes: (page, name)."""
    pattern = re.compile(r"`(systolora(?:\.\w+)+)[`(]")
    return [(page.name, name) for page in PAGES for name in pattern.findall(page.read_text(encoding="utf-8"))]


def find_paths() -> list[tuple[str, str]]:
    """Files and folders of the project in backquotes: (page, path)."""
    pattern = re.compile(r"`[^`]*?((?:tests|host|hls|sim|benchmarks|docs)/[\w./]*\w)[^`]*`")
    return [(page.name, path) for page in PAGES for path in pattern.findall(page.read_text(encoding="utf-8"))]
