"""Integer types and structs of C++ as the translation to hardware sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from systolora.sim.lint.tree import Node

from .net import BOOL, CType

_CTYPES = {
    "BOOL": BOOL,
    "CHAR_S": CType(8, True),
    "SCHAR": CType(8, True),
    "UCHAR": CType(8, False),
    "SHORT": CType(16, True),
    "USHORT": CType(16, False),
    "INT": CType(32, True),
    "UINT": CType(32, False),
    "LONG": CType(64, True),
    "ULONG": CType(64, False),
    "LONGLONG": CType(64, True),
    "ULONGLONG": CType(64, False),
}


class RtlError(ValueError):
    """C++ that is not a clock-step function of the supported kind; the text gives the line and the reason."""


def located(node: Node, text: str) -> RtlError:
    """The error that this node causes, with its file and line."""
    return RtlError(f"{node.file}:{node.line}: {text}")


def integer_type(node: Node) -> CType:
    """The type of an expression or variable.

    Raises:
        RtlError: it is not an integer.
    """
    found = _CTYPES.get(node.type.kind.name)
    if found is None:
        raise located(node, f"type {node.type.spelling} is not an integer type")
    return found


def is_integer(node: Node) -> bool:
    """Whether a variable is a single integer."""
    return node.type.kind.name in _CTYPES


def scalars(ctype: Any) -> Iterator[tuple[tuple[int | str, ...], CType]]:
    """The scalars that a C++ type consists of: path and type of each."""
    ctype = ctype.get_canonical()
    if ctype.kind.name == "RECORD":
        for member in ctype.get_fields():
            yield from (((member.spelling, *path), scalar) for path, scalar in scalars(member.type))
    elif ctype.kind.name == "CONSTANTARRAY":
        for path, scalar in list(scalars(ctype.element_type)):
            yield from (((index, *path), scalar) for index in range(ctype.element_count))
    elif ctype.kind.name in _CTYPES:
        yield (), _CTYPES[ctype.kind.name]
    else:
        raise RtlError(f"type {ctype.spelling} is not supported")


def is_reference(parameter: Node) -> bool:
    """Whether a parameter is a reference."""
    return str(parameter.type.kind.name) == "LVALUEREFERENCE"


def array_size(node: Node) -> int | None:
    """Elements of an array, or None if it is none. An array that is a parameter is one, although C++ passes a pointer."""
    declared = node.cursor.referenced.type if node.kind == "DECL_REF_EXPR" else node.cursor.type
    for ctype in (declared, declared.get_canonical()):
        if ctype.kind.name == "CONSTANTARRAY":
            return int(ctype.element_count)
    return None


def is_result(parameter: Node) -> bool:
    """Whether the function can write to the argument of this parameter."""
    return is_reference(parameter) and not parameter.type.get_pointee().is_const_qualified()
