"""C++ syntax trees for the lint: libclang's cursors as plain nodes that know their parent.

libclang is an optional package (``pip install libclang==18.1.1``) and is loaded on first use.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOP_KINDS = frozenset({"FOR_STMT", "WHILE_STMT", "DO_STMT", "CXX_FOR_RANGE_STMT"})
FUNCTION_KINDS = frozenset(
    {"FUNCTION_DECL", "CXX_METHOD", "FUNCTION_TEMPLATE", "CONSTRUCTOR", "DESTRUCTOR", "CONVERSION_FUNCTION"}
)
_VENDOR_HEADER = re.compile(r"(ap|hls)_\w+\.h")
_TRANSPARENT = frozenset({"UNEXPOSED_EXPR", "PAREN_EXPR"})
_COMPILERS = ("c++", "g++", "clang++", "gcc", "clang")
_EVALUATED_INTEGER = 1  # CXEval_Int of clang-c/Index.h
_ERROR_SEVERITY = 3  # CXDiagnostic_Error of clang-c/Index.h


class LintError(RuntimeError):
    """The lint cannot run at all: a missing folder, no C++ in it, or no libclang."""


@functools.lru_cache(maxsize=1)
def load_libclang() -> Any:
    """The module ``clang.cindex`` with the C functions its Python half does not declare yet.

    Raises:
        LintError: the package is missing, or older than 17 (no operator kinds).
    """
    remedy = "run: pip install libclang==18.1.1"
    try:
        cindex: Any = importlib.import_module("clang.cindex")
    except ImportError as error:
        raise LintError(f"the lint needs the Python package libclang, which is not installed; {remedy}") from error
    try:
        library = cindex.conf.lib
    except cindex.LibclangError as error:
        raise LintError(f"the Python package clang is here, but its library is not: {error}; {remedy}") from error
    try:
        for name in ("clang_getCursorBinaryOperatorKind", "clang_getCursorUnaryOperatorKind"):
            getattr(library, name).argtypes = [cindex.Cursor]
            getattr(library, name).restype = ctypes.c_int
        for name in ("clang_getBinaryOperatorKindSpelling", "clang_getUnaryOperatorKindSpelling"):
            getattr(library, name).argtypes = [ctypes.c_int]
            getattr(library, name).restype = cindex._CXString
            getattr(library, name).errcheck = cindex._CXString.from_result
    except AttributeError as error:
        raise LintError(f"this libclang is too old: the lint needs 17 or newer; {remedy}") from error
    library.clang_Cursor_Evaluate.argtypes = [cindex.Cursor]
    library.clang_Cursor_Evaluate.restype = ctypes.c_void_p
    library.clang_EvalResult_getKind.argtypes = [ctypes.c_void_p]
    library.clang_EvalResult_getAsLongLong.argtypes = [ctypes.c_void_p]
    library.clang_EvalResult_getAsLongLong.restype = ctypes.c_longlong
    library.clang_EvalResult_dispose.argtypes = [ctypes.c_void_p]
    return cindex


@functools.lru_cache(maxsize=1)
def compiler_headers() -> tuple[str, ...]:
    """The installed compiler's own header folder (``stddef.h`` ...), which the libclang package does not carry."""
    for compiler in _COMPILERS:
        try:
            answer = subprocess.run(
                [compiler, "-print-file-name=include"], capture_output=True, text=True, check=True, timeout=20
            )
        except (OSError, subprocess.SubprocessError):
            continue
        folder = answer.stdout.strip()
        if Path(folder).is_dir():
            return (folder,)
    return ()


def read_source(path: Path | str) -> str:
    """The text of a source. Comments of another encoding than UTF-8, ordinary in vendors' files, keep their lines."""
    return Path(path).read_text(encoding="utf-8", errors="replace")


class Node:
    """One cursor of a syntax tree: its kind by name, its parent and its children.

    ``file`` is the path libclang reports; ``line`` counts from 1; ``start`` and ``end`` are byte offsets.
    """

    def __init__(self, cursor: Any, kind: str, parent: Node | None, file: str) -> None:
        self.cursor = cursor
        self.kind = kind
        self.parent = parent
        self.file = file
        self.children: list[Node] = []

    @functools.cached_property
    def name(self) -> str:
        """The declared or referenced name; empty for most statements."""
        return str(self.cursor.spelling)

    @functools.cached_property
    def line(self) -> int:
        """Line of the node's own token."""
        return int(self.cursor.location.line)

    @functools.cached_property
    def extent(self) -> tuple[int, int]:
        """Byte offsets of the first character and of the one behind the last."""
        extent = self.cursor.extent
        return int(extent.start.offset), int(extent.end.offset)

    @functools.cached_property
    def referenced(self) -> Any:
        """The cursor of the declaration this expression names, or None."""
        return self.cursor.referenced

    @functools.cached_property
    def referenced_id(self) -> str:
        """libclang's unified symbol of the declaration this expression names; empty if there is none."""
        return "" if self.referenced is None else symbol(self.referenced)

    @functools.cached_property
    def type(self) -> Any:
        """Canonical type (typedefs resolved)."""
        return self.cursor.type.get_canonical()

    @functools.cached_property
    def operator(self) -> str:
        """The operator of a unary, binary or compound-assignment node, such as ``+=``; empty elsewhere."""
        library = load_libclang().conf.lib
        if self.kind in ("BINARY_OPERATOR", "COMPOUND_ASSIGNMENT_OPERATOR"):
            return str(
                library.clang_getBinaryOperatorKindSpelling(library.clang_getCursorBinaryOperatorKind(self.cursor))
            )
        if self.kind == "UNARY_OPERATOR":
            return str(
                library.clang_getUnaryOperatorKindSpelling(library.clang_getCursorUnaryOperatorKind(self.cursor))
            )
        return ""

    def walk(self) -> Iterator[Node]:
        """This node and everything below it, parents first, in source order."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    def ancestors(self) -> Iterator[Node]:
        """The enclosing nodes, innermost first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def bare(self) -> Node:
        """The expression itself, without the implicit casts and parentheses around it."""
        node = self
        while node.kind in _TRANSPARENT and len(node.children) == 1:
            node = node.children[0]
        return node

    def refers_to(self, identity: str) -> bool:
        """True if this node or one below it names the declaration with this symbol."""
        return any(n.kind == "DECL_REF_EXPR" and n.referenced_id == identity for n in self.walk())


def symbol(cursor: Any) -> str:
    """A key for a declaration that is the same in every file; locals get their position added.

    An instantiated template counts as the template itself.
    """
    library = load_libclang().conf.lib
    template = library.clang_getSpecializedCursorTemplate(cursor)
    if template is not None:
        cursor = template
    usr = str(cursor.get_usr())
    if usr:
        return usr
    location = cursor.location
    return f"{location.file.name if location.file else ''}:{location.offset}:{cursor.spelling}"


def constant(node: Node) -> int | None:
    """The value of an integer constant expression, or None where it is not one.

    Names of template parameters have no value before instantiation and give None.
    """
    if any(n.kind == "DECL_REF_EXPR" and _is_template_parameter(n) for n in node.walk()):
        return None
    library = load_libclang().conf.lib
    result = library.clang_Cursor_Evaluate(node.cursor)
    if not result:
        return None
    try:
        if library.clang_EvalResult_getKind(result) != _EVALUATED_INTEGER:
            return None
        return int(library.clang_EvalResult_getAsLongLong(result))
    finally:
        library.clang_EvalResult_dispose(result)


def is_constant(node: Node) -> bool:
    """True for an integer constant expression, template parameters included."""
    if constant(node) is not None:
        return True
    references = [n for n in node.walk() if n.kind == "DECL_REF_EXPR"]
    return bool(references) and all(_is_template_parameter(n) or constant(n) is not None for n in references)


def _is_template_parameter(node: Node) -> bool:
    return node.referenced is not None and node.referenced.kind.name == "TEMPLATE_NON_TYPE_PARAMETER"


@dataclass(frozen=True)
class Problem:
    """A compiler message of one translation unit."""

    file: str
    line: int
    offset: int
    text: str


@dataclass(frozen=True)
class Unit:
    """One parsed translation unit, reduced to what the project itself wrote.

    ``errors`` are compile errors; ``pragmas`` the places of pragmas that the preprocessor let through and
    that no C++ compiler knows (every ``#pragma HLS`` is one); ``files`` the project's files it read.
    """

    path: Path
    nodes: tuple[Node, ...]
    errors: tuple[Problem, ...]
    pragmas: tuple[Problem, ...]
    files: frozenset[str]


def parse_unit(path: Path, root: Path, defines: Sequence[str], include: Sequence[Path]) -> Unit:
    """Parse ``path`` as C++14; keep the syntax trees of files below ``root``.

    Raises:
        LintError: libclang is missing or refuses the file.
    """
    cindex = load_libclang()
    arguments = ["-x", "c++", "-std=c++14", "-ferror-limit=0", "-Wno-everything", "-Wunknown-pragmas"]
    arguments += [f"-D{define}" for define in defines]
    arguments += [f"-I{folder}" for folder in include]
    arguments += [part for folder in compiler_headers() for part in ("-isystem", folder)]
    try:
        unit = cindex.Index.create().parse(str(path), args=arguments)
    except cindex.TranslationUnitLoadError as error:
        raise LintError(f"libclang cannot read {path}: {error}") from error
    own = functools.lru_cache(maxsize=None)(lambda name: _is_own(Path(name), root))
    nodes: list[Node] = []
    for cursor in unit.cursor.get_children():
        file = cursor.location.file
        if file is not None and own(file.name):
            nodes.append(_build(cursor, None, file.name))
    errors, pragmas = [], []
    for diagnostic in unit.diagnostics:
        where = diagnostic.location
        name = where.file.name if where.file else str(path)
        problem = Problem(name, where.line, where.offset, diagnostic.spelling)
        if diagnostic.severity >= _ERROR_SEVERITY:
            errors.append(problem)
        elif diagnostic.option == "-Wunknown-pragmas" and own(name):
            pragmas.append(problem)
    files = {str(path)} | {i.include.name for i in unit.get_includes() if own(i.include.name)}
    return Unit(path, tuple(nodes), tuple(errors), tuple(pragmas), frozenset(files))


def subtree(cursor: Any) -> Node:
    """The nodes below a cursor that no unit has: of an instance of a template, whose constants have values."""
    return _build(cursor, None, cursor.location.file.name)


def _is_own(path: Path, root: Path) -> bool:
    """Whether the project wrote a file: the tool brings headers such as ap_int.h itself, and a project's stand in for them."""
    return not _VENDOR_HEADER.fullmatch(path.name) and path.resolve().is_relative_to(root.resolve())


def _build(cursor: Any, parent: Node | None, file: str) -> Node:
    node = Node(cursor, cursor.kind.name, parent, file)
    node.children = [_build(child, node, file) for child in cursor.get_children()]
    return node
