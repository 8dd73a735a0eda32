"""The part of C++ that becomes hardware: types, calls and statements (rules SUB01, SUB02, SUB04 to SUB12)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .project import Project
from .rules import Finding
from .tree import FUNCTION_KINDS, Node

_HEAP = frozenset(["malloc", "calloc", "realloc", "free", "alloca", "aligned_alloc", "posix_memalign", "strdup"])
# Free functions without a body here that Vitis HLS makes hardware of (UG1399: mathematics, memory, assert).
_KNOWN_CALLS = frozenset(
    [
        "memcpy",
        "memset",
        "memmove",
        "abs",
        "labs",
        "llabs",
        "fabs",
        "fabsf",
        "min",
        "max",
        "fmin",
        "fminf",
        "fmax",
        "fmaxf",
        "floor",
        "floorf",
        "ceil",
        "ceilf",
        "round",
        "roundf",
        "rint",
        "rintf",
        "nearbyint",
        "nearbyintf",
        "trunc",
        "truncf",
        "lrint",
        "lrintf",
        "lround",
        "lroundf",
        "sqrt",
        "sqrtf",
        "exp",
        "expf",
        "exp2",
        "exp2f",
        "log",
        "logf",
        "log2",
        "log2f",
        "log10",
        "log10f",
        "pow",
        "powf",
        "sin",
        "sinf",
        "cos",
        "cosf",
        "tan",
        "tanf",
        "tanh",
        "tanhf",
        "atan",
        "atanf",
        "atan2",
        "atan2f",
        "fma",
        "fmaf",
        "fmod",
        "fmodf",
        "ldexp",
        "ldexpf",
        "frexp",
        "frexpf",
        "modf",
        "modff",
        "isnan",
        "isinf",
        "isfinite",
        "signbit",
        "copysign",
        "copysignf",
        "div",
        "__assert_fail",
        "__builtin_expect",
        "__builtin_clz",
        "__builtin_ctz",
        "__builtin_popcount",
    ]
)
_KNOWN_SCOPES = ("hls::", "ap_")
_KNOWN_HEADERS = ("ap_", "hls_")
_KNOWN_STD_TYPES = ("std::complex", "std::numeric_limits", "std::integral_constant")
_JUMPS = {
    "GOTO_STMT": "a goto",
    "INDIRECT_GOTO_STMT": "a computed goto",
    "ASM_STMT": "inline assembly",
    "MS_ASM_STMT": "inline assembly",
}
_EXCEPTIONS = {"CXX_TRY_STMT": "a try block", "CXX_THROW_EXPR": "a throw"}
_RUNTIME_TYPES = {"CXX_DYNAMIC_CAST_EXPR": "a dynamic_cast", "CXX_TYPEID_EXPR": "a typeid"}
_TYPED = frozenset({"VAR_DECL", "PARM_DECL", "FIELD_DECL"})
_POINTER_CASTS = frozenset({"CSTYLE_CAST_EXPR", "CXX_REINTERPRET_CAST_EXPR", "CXX_STATIC_CAST_EXPR"})
_CALLABLES = frozenset({"FUNCTIONPROTO", "FUNCTIONNOPROTO"})


def check_subset(project: Project) -> Iterator[Finding]:
    """All findings about constructs that no HLS tool turns into hardware."""
    for root in project.nodes:
        for node in root.walk():
            yield from _check_node(project, node)


def _check_node(project: Project, node: Node) -> Iterator[Finding]:
    kind = node.kind
    if kind in ("CXX_NEW_EXPR", "CXX_DELETE_EXPR"):
        word = "new" if kind == "CXX_NEW_EXPR" else "delete"
        yield project.finding("SUB01", node, f"dynamic memory ({word})")
    elif kind == "CALL_EXPR":
        yield from _check_call(project, node)
    elif kind in _JUMPS:
        yield project.finding("SUB11", node, _JUMPS[kind])
    elif kind in _EXCEPTIONS:
        yield project.finding("SUB05", node, _EXCEPTIONS[kind])
    elif kind in _RUNTIME_TYPES:
        yield project.finding("SUB04", node, _RUNTIME_TYPES[kind])
    elif kind in ("CXX_METHOD", "DESTRUCTOR") and node.cursor.is_virtual_method():
        yield project.finding("SUB04", node, f"the virtual method {node.name}")
    elif kind in _TYPED:
        yield from _check_type(project, node, node.type, f"'{node.name}'")
    elif kind in _POINTER_CASTS:
        yield from _check_cast(project, node)
    elif kind == "DECL_REF_EXPR" and _is_address_of_function(node):
        yield project.finding("SUB07", node, f"the address of function {node.name} is taken")
    if kind in FUNCTION_KINDS:
        result = node.cursor.result_type.get_canonical()
        yield from _check_type(project, node, result, f"the result of {node.name}")


def _check_call(project: Project, node: Node) -> Iterator[Finding]:
    target = node.referenced
    if target is None:
        if node.children and _is_pointer_to_function(node.children[0].type):
            yield project.finding("SUB07", node, "a call through a function pointer")
        return
    if target.kind.name in ("VAR_DECL", "PARM_DECL", "FIELD_DECL"):
        yield project.finding("SUB07", node, f"a call through the function pointer '{node.name}'")
        return
    if node.name in _HEAP:
        yield project.finding("SUB01", node, f"dynamic memory ({node.name})")
        return
    if node.referenced_id in project.functions or target.kind.name in ("CONSTRUCTOR", "DESTRUCTOR"):
        return
    scope = _scope(target)
    header = target.location.file
    if header is not None and Path(header.name).name.startswith(_KNOWN_HEADERS):
        return
    implicit = node.name == "operator=" and not scope.startswith("std::")
    if implicit or node.name in _KNOWN_CALLS or scope.startswith((*_KNOWN_SCOPES, *_KNOWN_STD_TYPES)):
        return
    yield project.finding("SUB02", node, f"a call of {scope}{node.name}, which has no body here")


def _scope(cursor: Any) -> str:
    """The namespaces and classes around a declaration, such as ``std::vector::``; inline ones left out."""
    names = []
    parent = cursor.semantic_parent
    while parent is not None and parent.kind.name != "TRANSLATION_UNIT":
        name = parent.spelling
        if name and not name.startswith("__"):
            names.append(name)
        parent = parent.semantic_parent
    return "".join(f"{name}::" for name in reversed(names))


def _check_type(project: Project, node: Node, kind: Any, what: str) -> Iterator[Finding]:
    """What a declared type must not be, looked at through references and arrays."""
    name = kind.kind.name
    if name in ("LVALUEREFERENCE", "RVALUEREFERENCE"):
        kind = kind.get_pointee().get_canonical()
    while "ARRAY" in kind.kind.name:
        if kind.kind.name == "VARIABLEARRAY":
            yield project.finding("SUB09", node, f"{what} is an array of variable length")
        kind = kind.element_type.get_canonical()
    name = kind.kind.name
    if name == "LONGDOUBLE":
        yield project.finding("SUB10", node, f"{what} is a long double")
    elif name == "MEMBERPOINTER" or _is_pointer_to_function(kind):
        yield project.finding("SUB07", node, f"{what} is a pointer to a function or member")
    elif name == "POINTER" and kind.get_pointee().get_canonical().kind.name == "POINTER":
        yield project.finding("SUB08", node, f"{what} is a pointer to a pointer")
    elif name == "RECORD":
        spelling = kind.spelling.removeprefix("const ")
        if spelling.startswith("std::") and not spelling.startswith(_KNOWN_STD_TYPES):
            yield project.finding("SUB06", node, f"{what} is a {spelling.partition('<')[0]}")


def _is_pointer_to_function(kind: Any) -> bool:
    return kind.kind.name == "POINTER" and kind.get_pointee().get_canonical().kind.name in _CALLABLES


def _is_address_of_function(node: Node) -> bool:
    """True for a function's name that is used as a value, not called."""
    if node.type.kind.name not in _CALLABLES or node.referenced is None:
        return False
    child, parent = node, node.parent
    while parent is not None and parent.kind in ("UNEXPOSED_EXPR", "PAREN_EXPR"):
        child, parent = parent, parent.parent
    if parent is None:
        return False
    if parent.kind != "CALL_EXPR":
        return True
    # libclang lists an operator's name between its operands; everywhere else the name called comes first.
    return parent.children[0] is not child and not node.name.startswith("operator")


def _check_cast(project: Project, node: Node) -> Iterator[Finding]:
    """A cast between pointers of which one points to a struct, a class or an ap type."""
    target = node.type
    operands = [child for child in node.children if not child.kind.endswith("_REF")]
    if target.kind.name != "POINTER" or not operands:
        return
    source = operands[-1].bare().type
    if source.kind.name != "POINTER":
        return
    ends = [kind.get_pointee().get_canonical() for kind in (source, target)]
    names = [end.spelling.removeprefix("const ") for end in ends]
    if names[0] != names[1] and any(end.kind.name == "RECORD" for end in ends):
        yield project.finding("SUB12", node, f"a cast from {names[0]} * to {names[1]} *")
