"""How every template of the project is rendered: what a template prints is a number or a string, nothing else."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined, Undefined


class RenderError(TypeError):
    """A template prints what is neither a number nor a string: its text would depend on the version of Python."""


def template_environment(package: str, folder: str = "templates", *, autoescape: bool = False) -> Environment:
    """The templates in a package's folder. A name that is missing, and a value that is not plain, is an error.

    Args:
        package: dotted name of the package that ships the folder.
        folder: relative to the package.
        autoescape: for HTML.
    """
    return Environment(
        loader=PackageLoader(package, folder),
        undefined=StrictUndefined,
        autoescape=autoescape,
        finalize=_plain,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _plain(value: object) -> object:
    # An IntEnum is the case that hurts: Python 3.10 prints `Result.BFLOAT16`, 3.11 prints 2. A bool is no C++ either.
    if type(value) in (str, int, float) or isinstance(value, Undefined) or hasattr(value, "__html__"):
        return value
    raise RenderError(f"a template prints {value!r}, a {type(value).__name__}: give it a number or a string")
