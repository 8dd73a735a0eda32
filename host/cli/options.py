"""Command line options made from a settings dataclass, so that a setting is declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, get_type_hints

import typer

Json = Annotated[bool, typer.Option("--json", help="End with one JSON line for programs to read.")]
"""The option that every command with a result for programs has."""


def options_from(settings: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: the function's `**given` parameter becomes one optional option per field of the dataclass.

    The function receives only those that the user gave. The help text is the field's metadata `help` and its default.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        declared = inspect.signature(function).parameters.values()
        own = [p.replace(annotation=hints[p.name]) for p in declared if p.kind is not p.VAR_KEYWORD]
        made = [_parameter(field) for field in fields(settings)]
        names = {parameter.name for parameter in made}

        def command(**values: Any) -> None:
            given = {name: value for name, value in values.items() if name in names and value is not None}
            function(**{name: value for name, value in values.items() if name not in names}, **given)

        parameters = [*own, *made]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = function.__doc__
        command.__name__ = function.__name__
        return command

    return decorate


def _parameter(field: Any) -> inspect.Parameter:
    kind = type(field.default)
    option = "--" + field.name.replace("_", "-")
    default = "" if field.default in ("", MISSING) else f" [default: {field.default}]"
    switch = f"{option}/--no-{option[2:]}" if kind is bool else option
    annotation: Any = Annotated[
        kind | None, typer.Option(switch, help=field.metadata["help"] + default, show_default=False)
    ]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
