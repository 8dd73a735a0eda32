"""Hooks of the documentation site (mkdocs.yml): the pages that are made, and links that lead out of docs/.

Made are the reference of the command line, from the commands themselves, and a page for each notebook, run with its outputs. The
outputs are kept in build/docs by the contents of notebook and package, so that a second build does not run them again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "docs"
ROOMS = ("hls", "sim", "bitstreams")
_LINK_OUT = re.compile(r"\]\((?:\.\./)+((?:[\w.-]+/)*[\w.-]+)\)")


def on_startup(command: str, dirty: bool) -> None:
    """Lays out the package `systolora` as it is installed, of links, for the reference from docstrings."""
    package = BUILD / "package" / "systolora"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    for source in [*(ROOT / "host").iterdir(), *(ROOT / room for room in ROOMS)]:
        if source.suffix == ".py" or (source / "__init__.py").is_file():
            (package / source.name).symlink_to(source)


@event_priority(-100)  # behind the plugins
def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Takes out what the plugin `offline` would have each page load from the network; search then needs a server, the pages do not."""
    config.extra["polyfills"] = []
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the made pages."""
    files.append(File.generated(config, "cli.md", content=command_line_page()))
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for name, content in notebook_files(notebook).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Files of the project that a page links to outside of docs/ come along, under files/."""

    def bring(match: re.Match[str]) -> str:
        path = match[1]
        if not (ROOT / path).is_file() or path.startswith("docs/"):
            return match[0]
        # As plain text: a browser shows it, whatever it is.
        target = f"files/{path}.txt"
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, content=(ROOT / path).read_bytes()))
        return f"]({posixpath.relpath(target, posixpath.dirname(page.file.src_uri))})"

    # A drawing language that browsers read with a script of others only; its text is readable too.
    return _LINK_OUT.sub(bring, markdown.replace("```mermaid", "```text"))


def command_line_page() -> str:
    """Every command with its options, under the headings of its `--help`."""
    import typer.main
    from systolora.cli.app import app

    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", "Made from the commands: what `--help` says.", ""]
    return "\n".join(lines + list(_command_sections(group, None, "systolora"))) + "\n"


def _command_sections(command: Any, parent: Any, name: str) -> Iterator[str]:
    import typer

    context = typer.Context(command, info_name=name.rpartition(" ")[2], parent=parent)
    yield f"## {name}"
    yield ""
    yield _escaped(command.help or "")
    yield ""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            argument = parameter.param_type_name == "argument"
            heading = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or "Options"
            sections.setdefault(heading, []).append(record)
    for heading, records in sections.items():
        yield f"**{heading}**"
        yield ""
        yield f"| {'argument' if heading == 'Arguments' else 'option'} | |"
        yield "|---|---|"
        yield from (f"| `{option}` | {_escaped(' '.join(text.split()))} |" for option, text in records)
        yield ""
    for inner in command.list_commands(context) if hasattr(command, "list_commands") else ():
        yield from _command_sections(command.get_command(context, inner), context, f"{name} {inner}")


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


def notebook_files(path: Path) -> dict[str, bytes | str]:
    """The page of a notebook and its pictures, by name; the notebook runs, if what it depends on has changed."""
    executed = _executed(path)
    files: dict[str, bytes | str] = {}
    parts = []
    for number, cell in enumerate(executed["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")
        if printed.strip():
            parts.append(f"```text\n{printed.rstrip()}\n```")
        for place, output in enumerate(cell["outputs"]):
            if picture := output.get("data", {}).get("image/png"):
                name = f"{path.stem}_{number}_{place}.png"
                files[name] = base64.b64decode("".join(picture))
                parts.append(f"![What the cell above draws]({name})")
    note = f"*The notebook [`notebooks/{path.name}`](../../notebooks/{path.name}) of a clone, run when this site was built.*"
    title, _, rest = "\n\n".join(parts).partition("\n")
    files[f"{path.stem}.md"] = f"{title}\n\n{note}\n{rest}\n"
    return files


def _executed(path: Path) -> dict[str, Any]:
    import nbclient
    import nbformat

    digest = hashlib.sha256(path.read_bytes())
    for room in ("host", *ROOMS):
        for source in sorted((ROOT / room).rglob("*.py")):
            digest.update(source.read_bytes())
    # A short look at the pages need not train to the end.
    digest.update(os.environ.get("SYSTOLORA_NOTEBOOK_STEPS", "").encode())
    kept = BUILD / "notebooks" / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"
    if not kept.is_file():
        folder = BUILD / "run"
        folder.mkdir(parents=True, exist_ok=True)
        notebook = nbformat.read(path, as_version=4)
        nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
        kept.parent.mkdir(parents=True, exist_ok=True)
        for old in kept.parent.glob(f"{path.stem}-*"):
            old.unlink()
        partial = kept.with_suffix(".partial")
        nbformat.write(notebook, partial)
        partial.replace(kept)
    return dict(json.loads(kept.read_text(encoding="utf-8")))
