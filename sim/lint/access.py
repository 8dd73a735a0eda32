"""Which variables a piece of code reads and writes, followed through calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .project import Function, Project
from .tree import Node, symbol

_STREAM_WRITES = frozenset({"write", "write_nb", "operator<<"})
_STREAM_READS = frozenset({"read", "read_nb", "operator>>", "empty", "full", "size"})
_PARTS = frozenset({"operator[]", "operator()", "range", "bit"})
_COMPARISONS = frozenset({"operator==", "operator!=", "operator<=", "operator>="})
_BY_ADDRESS = frozenset({"POINTER", "LVALUEREFERENCE", "CONSTANTARRAY", "INCOMPLETEARRAY"})


@dataclass(frozen=True)
class Access:
    """How something is used."""

    reads: bool = False
    writes: bool = False

    def __or__(self, other: Access) -> Access:
        """Used in both ways."""
        return Access(self.reads or other.reads, self.writes or other.writes)


READ, WRITE, BOTH = Access(reads=True), Access(writes=True), Access(True, True)
Uses = dict[str, Access]


class AccessMap:
    """Reads and writes of parameters, statics and globals by function; each function is looked at once."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._known: dict[str, Uses] = {}

    def of_function(self, function: Function) -> Uses:
        """Uses of every variable in the body of ``function``, by symbol; a recursive call counts as no use."""
        if function.id not in self._known:
            self._known[function.id] = {}
            uses: Uses = {}
            for key, access in self._of(function.body, READ):
                uses[key] = uses.get(key, Access()) | access
            self._known[function.id] = uses
        return self._known[function.id]

    def of_call(self, node: Node) -> list[tuple[Node, Access]]:
        """Each argument of a call with what the called function does to it."""
        arguments = _arguments(node)
        function = self._project.functions.get(node.referenced_id)
        if function is None:
            return [(argument, _by_type(argument, node, index)) for index, argument in enumerate(arguments)]
        uses = self.of_function(function)
        pairs = zip(arguments, function.parameters, strict=False)
        return [
            (argument, uses.get(symbol(parameter.cursor), Access()) if _by_address(parameter) else READ)
            for argument, parameter in pairs
        ]

    def globals_of_call(self, node: Node) -> Uses:
        """Uses, by the called function, of variables that are not its parameters (statics and globals)."""
        function = self._project.functions.get(node.referenced_id)
        if function is None:
            return {}
        own = {symbol(parameter.cursor) for parameter in function.parameters}
        return {key: access for key, access in self.of_function(function).items() if key not in own}

    def _of(self, node: Node, mode: Access) -> Iterator[tuple[str, Access]]:
        """Uses below ``node``, whose own value is used as ``mode`` says."""
        children = node.children
        if node.kind == "DECL_REF_EXPR":
            yield node.referenced_id, mode
        elif node.kind == "CALL_EXPR":
            yield from self._of_call(node, mode)
        elif node.kind == "ARRAY_SUBSCRIPT_EXPR" and len(children) == 2:
            yield from self._of(children[0], mode)
            yield from self._of(children[1], READ)
        elif node.kind in ("BINARY_OPERATOR", "COMPOUND_ASSIGNMENT_OPERATOR") and len(children) == 2:
            assigns = node.operator.endswith("=") and node.operator not in ("==", "!=", "<=", ">=")
            left = READ if not assigns else WRITE if node.operator == "=" else BOTH
            yield from self._of(children[0], left)
            yield from self._of(children[1], READ)
        elif node.kind == "UNARY_OPERATOR" and node.operator in ("++", "--"):
            yield from self._of(children[0], BOTH)
        elif node.kind in ("MEMBER_REF_EXPR", "UNARY_OPERATOR", "UNEXPOSED_EXPR", "PAREN_EXPR"):
            for child in children:
                yield from self._of(child, mode)
        else:
            for child in children:
                yield from self._of(child, READ)

    def _of_call(self, node: Node, mode: Access) -> Iterator[tuple[str, Access]]:
        """A method's object is used as the method's name says, or both ways if its body is not known."""
        member = node.children[0].bare() if node.children else None
        if member is not None and member.kind == "MEMBER_REF_EXPR":
            for child in member.children:
                yield from self._of(child, mode if node.name in _PARTS else _by_method(node))
        for index, (argument, access) in enumerate(self.of_call(node)):
            yield from self._of(argument, mode if index == 0 and node.name in _PARTS else access)
        yield from self.globals_of_call(node).items()


def _arguments(node: Node) -> list[Node]:
    """The argument nodes of a call, the operands of an overloaded operator included."""
    offsets = {(a.extent.start.offset, a.extent.end.offset) for a in node.cursor.get_arguments() if a is not None}
    return [child for child in node.children if child.extent in offsets and "operator" not in child.name[:8]]


def _by_address(parameter: Node) -> bool:
    return parameter.type.kind.name in _BY_ADDRESS or "ARRAY" in parameter.type.kind.name


def _by_method(node: Node) -> Access:
    if node.name in _STREAM_WRITES:
        return WRITE
    if node.name in _STREAM_READS or (node.referenced is not None and node.referenced.is_const_method()):
        return READ
    return BOTH


def _by_type(argument: Node, call: Node, index: int) -> Access:
    """How an argument of a function without a body here is used: by its name, else by the parameter's type."""
    name = call.name
    if index == 0 and name.endswith("=") and name not in _COMPARISONS:
        return WRITE if name == "operator=" else BOTH
    if name in ("operator<<", "operator>>") and argument.bare().type.spelling.startswith("hls::stream"):
        return _by_method(call)
    if index == 0 and name in ("memcpy", "memset", "memmove"):
        return WRITE
    kinds = list(call.referenced.type.argument_types()) if call.referenced is not None else []
    # The object of an operator that is a method comes first and is not among the parameters.
    position = index - (len(_arguments(call)) - len(kinds))
    if not 0 <= position < len(kinds):
        return READ
    kind = kinds[position].get_canonical()
    by_address = kind.kind.name in _BY_ADDRESS
    return BOTH if by_address and not kind.get_pointee().is_const_qualified() else READ
