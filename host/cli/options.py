"""Command line options made from a settings dataclass, so that a setting is declared once, and help that shows all of it."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.console import Console
from rich.table import Table
from systolora.options import Rule, fields_in_order, option_name, rule_of
from typer.core import TyperCommand, TyperGroup

Json = Annotated[bool, typer.Option("--json", help="End with one JSON line for programs to read.", show_default=False)]
"""The option that every command with a result for programs has."""

_OTHERS = "Options"
_NAME_COLUMNS = 25
_WIDEST = 10_000
"""Columns of no terminal."""
_LARGEST_TOLD = 16_384
_UNBROKEN = 40
_TIE = "\xa0"
"""A space where textwrap breaks no line."""

_FACTS = re.compile(r"\[[^\[\]]*\]$")
_KINDS = {"path": "PATH", "file": "PATH", "directory": "PATH", "str": "TEXT", "text": "TEXT"} | dict.fromkeys(
    ("int", "integer", "float"), "NUMBER"
)
_KIND = re.compile(r"<(path|file|directory|str|text|int|integer|float)(?: range)?>|\b(INTEGER|FLOAT)(?: RANGE)?\b")
"""How typer names what an option takes, in newer versions and in older ones."""

_RANGE = re.compile(r"; (\d+)<=x<=(\d+)")


def make_console(json: bool = False, quiet: bool = False) -> Console:
    """Where a command prints: standard error if standard output is for JSON. Square brackets in a path are no markup.

    Args:
        quiet: nothing is printed: another process of the same run does.
    """
    return Console(stderr=json, quiet=quiet, markup=False, highlight=False, emoji=False)


def print_table(console: Console, table: Table) -> None:
    """Prints a table whole: where the terminal is too narrow for it, its lines wrap, and no cell is cut."""
    if table.title:
        console.print(table.title, soft_wrap=True)
        table.title = None
    table.width = console.measure(table, options=console.options.update(width=_WIDEST)).maximum
    console.print(table, soft_wrap=True)


class GroupedCommand(TyperCommand):
    """A command whose help has the options under the headings of their rules, names never cut."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the arguments, then one section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            record = _in_our_words(parameter, *record)
            argument = parameter.param_type_name == "argument"
            heading = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or _OTHERS
            sections.setdefault(heading, []).append(record)
        for heading in sorted(sections, key=lambda name: (name != "Arguments", name == _OTHERS)):
            with formatter.section(heading):
                for name, text in sections[heading]:
                    formatter.write(_entry(name, text, formatter.current_indent, formatter.width))


class CommandGroup(TyperGroup):
    """A group whose help says of each command all of its first paragraph."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes one entry for each command."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            for name, command in commands:
                text = " ".join((command.help or "").split("\n\n")[0].split()) if command else ""
                formatter.write(_entry(name, text, formatter.current_indent, formatter.width))


def _in_our_words(parameter: Any, name: str, text: str) -> tuple[str, str]:
    """typer's entry of an option that stands alone, with the words of those that are made from settings."""
    name = _KIND.sub(lambda found: _KINDS[(found[1] or found[2]).lower().split()[0]], name)
    text = _RANGE.sub(lambda found: _range(int(found[1]), int(found[2])), text)
    alone = parameter.param_type_name == "option" and not parameter.is_flag and not parameter.required
    if alone and parameter.default in (None, [], ()) and not text.endswith("]"):
        text += "  [default: none]"
    return name, text


def _range(least: int, most: int) -> str:
    if most <= _LARGEST_TOLD:
        return f"; {least} to {most}"
    return "" if least == 0 else "; above 0" if least == 1 else f"; at least {least}"


def _entry(name: str, text: str, indent: int, width: int) -> str:
    """One option and what it does, beside it or, where its name is long, below it; no word is cut at a hyphen."""
    margin = " " * (indent + _NAME_COLUMNS)
    facts = _FACTS.search(text)
    if facts and len(facts[0]) <= _UNBROKEN:  # default and bounds stand on one line
        text = text[: facts.start()] + facts[0].replace(" ", _TIE)
    lines = textwrap.wrap(
        text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False, break_long_words=False
    )
    lines = [line.replace(_TIE, " ") for line in lines]
    first = " " * indent + name
    if lines and len(first) + 2 <= len(margin):
        lines[0] = first.ljust(len(margin)) + lines[0].lstrip()
    else:
        lines.insert(0, first)
    return "\n".join(lines) + "\n"


def options_from(settings: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: the function's `**given` parameter becomes one optional option per field of the dataclass.

    The function receives only those that the user gave. The help text is the field's `Rule` and its default.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        hints = get_type_hints(function, include_extras=True)
        declared = inspect.signature(function).parameters.values()
        own = [p.replace(annotation=hints[p.name]) for p in declared if p.kind is not p.VAR_KEYWORD]
        made = [_parameter(field) for field in fields_in_order(settings)]
        names = {parameter.name for parameter in made}

        def command(**values: Any) -> Any:
            given = {name: value for name, value in values.items() if name in names and value is not None}
            return function(**{name: value for name, value in values.items() if name not in names}, **given)

        parameters = [*own, *made]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


def help_text(field: Field[Any]) -> str:
    """What the help says of a setting: what it does, the names that are allowed, its default and its bounds."""
    rule = rule_of(field)
    text = rule.help
    unnamed = [choice for choice in rule.choices if choice and choice not in text]
    if unnamed:
        text += f": {', '.join(choice for choice in rule.choices if choice)}"
    bounds = _bounds(rule)
    facts = ["required" if rule.needed else f"default: {_default(field.default)}", *([bounds] if bounds else [])]
    return f"{text}  [{'; '.join(facts)}]"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "empty"


def _bounds(rule: Rule) -> str:
    """The bounds that tell something; that a number is not negative, or smaller than what no computer holds, goes without saying."""
    if rule.most is not None and rule.most <= _LARGEST_TOLD:
        return f"{rule.least:g} to {rule.most:g}" if rule.least is not None else f"above {rule.above}, to {rule.most:g}"
    return f"above {rule.above:g}" if rule.above is not None else ""


def _parameter(field: Field[Any]) -> inspect.Parameter:
    kind: Any = Path if isinstance(field.default, Path) else type(field.default)
    option = option_name(field.name)
    switch = f"{option}/--no-{option[2:]}" if kind is bool else option
    choices = rule_of(field).choices
    shown = "NAME" if choices else {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}.get(kind)
    made = typer.Option(
        switch,
        help=help_text(field),
        show_default=False,
        metavar=None if kind is bool else shown,
        rich_help_panel=rule_of(field).group or None,
    )
    annotation: Any = Annotated[kind | None, made]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
