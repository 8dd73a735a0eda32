"""From a C++ clock-step function to registers and exact integers: an independent reading of the text that Vitis HLS gets.

One call of the function is one clock. Its static variables are registers; loops have constant bounds and are unrolled, calls
are inlined, `if` becomes selection. What this does not tell is what a scheduler makes of it (docs/rtl_check.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from systolora.sim.lint.tree import Node, constant, parse_unit, subtree, symbol

from .design import Port, Register, Rtl
from .net import CType, Net, Netlist, Unsupported
from .ranges import register_types
from .types import RtlError, array_size, integer_type, is_integer, is_reference, is_result, located, scalars

_CASTS = frozenset({"UNEXPOSED_EXPR", "CXX_FUNCTIONAL_CAST_EXPR", "CSTYLE_CAST_EXPR", "CXX_STATIC_CAST_EXPR"})
_PLACES = frozenset({"DECL_REF_EXPR", "MEMBER_REF_EXPR", "ARRAY_SUBSCRIPT_EXPR"})


@dataclass(frozen=True)
class _Place:
    """A variable, or with a path a part of it: member names and array indices from the outside in."""

    root: str
    path: tuple[int | str, ...] = ()

    def inner(self, steps: tuple[int | str, ...]) -> _Place:
        return _Place(self.root, self.path + steps)

    def verilog(self, prefix: str) -> str:
        return "_".join([prefix, self.root, *map(str, self.path)])

    def cpp(self) -> str:
        return self.root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.path)


def translate(source: Path, function: str, include: Path) -> Rtl:
    """The registers and nets of a clock-step function, in the native integer types; registers as narrow as what they hold.

    Args:
        source: C++ file with the function. include: folder of the headers that it includes.

    Raises:
        RtlError: the text does not compile, or is not of the kind described above; with file and line.
    """
    unit = parse_unit(source, include, ["SYSTOLORA_NATIVE"], [include])
    if unit.errors:
        error = unit.errors[0]
        raise RtlError(f"{error.file}:{error.line}: {error.text}")
    functions = {
        symbol(node.cursor): node
        for node in unit.nodes
        if node.kind == "FUNCTION_DECL" and node.children and node.children[-1].kind == "COMPOUND_STMT"
    }
    tops = [node for node in functions.values() if node.name == function]
    if len(tops) != 1:
        raise RtlError(f"{source}: {len(tops)} definitions of {function}; exactly one is needed")
    wide = _Translator(functions, {}).run(tops[0])
    return _Translator(functions, register_types(wide)).run(tops[0])


class _Translator:
    """Runs the function once on nets instead of numbers."""

    def __init__(self, functions: dict[str, Node], narrow: dict[str, CType]) -> None:
        self.functions = functions
        self.narrow = narrow
        self.instance = ""
        self.netlist = Netlist()
        self.scope: dict[str, _Place] = {}
        self.values: list[dict[_Place, Net]] = [{}]
        self.inputs: dict[_Place, Port] = {}
        self.registers: dict[_Place, Net] = {}
        self.types: dict[_Place, CType] = {}
        self.sources: dict[str, str] = {}
        self.variables = 0

    def run(self, top: Node) -> Rtl:
        """The design of the top function, whose parameters become ports."""
        results: list[tuple[_Place, CType]] = []
        for parameter in (child for child in top.children if child.kind == "PARM_DECL"):
            place = _Place(parameter.name)
            self.scope[symbol(parameter.cursor)] = place
            self.sources[place.root] = "input"
            if is_result(parameter):
                results += [(place.inner(path), scalar) for path, scalar in scalars(parameter.type.get_pointee())]
        self.statement(top.children[-1])
        after = self.values[0]
        outputs = [
            Port(place.verilog("o"), place.cpp(), scalar, after[place]) for place, scalar in results if place in after
        ]
        registers = [
            Register(net.name, self.narrow.get(net.name, self.types[place]), net, after[place])
            for place, net in self.registers.items()
        ]
        return Rtl.of_live(top.name, self.inputs.values(), outputs, registers, self.netlist.nets)

    def statement(self, node: Node) -> None:
        """Executes a statement."""
        node = node.bare()
        handler = self.STATEMENTS.get(node.kind)
        if handler is None or (node.kind == "BINARY_OPERATOR" and node.operator != "="):
            raise located(node, f"a statement of kind {node.kind} is not supported")
        handler(self, node)

    def _sequence(self, node: Node) -> None:
        for child in node.children:
            self.statement(child)

    def _declare(self, node: Node) -> None:
        for variable in node.children:
            if variable.kind != "VAR_DECL":
                raise located(variable, f"a declaration of kind {variable.kind} is not supported")
            values = [child for child in variable.children if child.kind != "TYPE_REF"]
            if variable.cursor.storage_class.name == "STATIC":
                if any(child.kind == "INIT_LIST_EXPR" or is_integer(variable) for child in values):
                    raise located(variable, "a static variable starts at zero; an initial value is not supported")
                # Each instance of a template has its own.
                name = variable.name + self.instance
                if name in self.sources:
                    raise located(variable, f"{name} is the name of a parameter or of another static variable")
                self.sources[name] = "register"
                self.scope[symbol(variable.cursor)] = _Place(name)
                continue
            # A new variable each time, so that nothing is left of the last iteration or call.
            self.variables += 1
            place = self.scope[symbol(variable.cursor)] = _Place(f"{variable.name}:{self.variables}")
            if is_integer(variable) and values:
                self._store(place, self.value(values[-1]), integer_type(variable))

    def _assign(self, node: Node) -> None:
        target, value = node.children
        self._store(self.place(target), self.value(value), integer_type(target))

    def _compound_assign(self, node: Node) -> None:
        target, value = node.children
        ctype = integer_type(target)
        result = self.netlist.binary(node.operator[:-1], self.value(target), self.value(value), ctype)
        self._store(self.place(target), result, ctype)

    def _step(self, node: Node) -> None:
        target = node.children[0]
        ctype = integer_type(target)
        if node.operator not in ("++", "--"):
            raise located(node, f"operator {node.operator} as a statement is not supported")
        result = self.netlist.binary(node.operator[0], self.value(target), self.netlist.constant(1), ctype)
        self._store(self.place(target), result, ctype)

    def _call(self, node: Node) -> None:
        if node.name == "operator=":
            target, source = self.place(node.children[0]), self.place(node.children[2])
            for path, scalar in scalars(node.children[0].type):
                self._store(target.inner(path), self._load(source.inner(path), scalar, node), scalar)
            return
        function, instance = self._called(node)
        scope = {}
        parameters = [child for child in function.children if child.kind == "PARM_DECL"]
        for parameter, argument in zip(parameters, node.children[1:], strict=True):
            scope[symbol(parameter.cursor)] = self._argument(parameter, argument)
        outer = self.scope, self.instance
        self.scope, self.instance = scope, instance
        self.statement(function.children[-1])
        self.scope, self.instance = outer

    def _called(self, node: Node) -> tuple[Node, str]:
        """The function that a call means, and of a template what its instance adds to the names of static variables."""
        arguments = max(0, node.referenced.get_num_template_arguments()) if node.referenced is not None else 0
        if arguments:
            values = [node.referenced.get_template_argument_value(index) for index in range(arguments)]
            return subtree(node.referenced), "".join(f"_{value}" for value in values)
        function = self.functions.get(node.referenced_id)
        if function is None:
            raise located(node, f"no definition of {node.name}")
        return function, self.instance

    def _argument(self, parameter: Node, argument: Node) -> _Place:
        """Where a parameter lives during a call: a reference or an array is its argument, a value a variable of its own."""
        if (is_reference(parameter) or array_size(parameter) is not None) and argument.bare().kind in _PLACES:
            return self.place(argument)
        self.variables += 1
        place = _Place(f"{parameter.name}:{self.variables}")
        self._store(place, self.value(argument), integer_type(argument))
        return place

    def _loop(self, node: Node) -> None:
        if len(node.children) != 4:
            raise located(node, "a loop needs a start, a condition and a step")
        start, condition, step, body = node.children
        self.statement(start)
        while True:
            value = self.value(condition).constant
            if value is None:
                raise located(node, "the bound of the loop is not constant")
            if not value:
                return
            self.statement(body)
            self.statement(step)

    def _branch(self, node: Node) -> None:
        condition, *branches = node.children
        choice = self.netlist.truth(self.value(condition))
        if choice.constant is not None:
            for branch in branches[:1] if choice.constant else branches[1:]:
                self.statement(branch)
            return
        written = []
        for side in (branches[:1], branches[1:]):
            self.values.append({})
            for branch in side:
                self.statement(branch)
            written.append(self.values.pop())
        for place in {**written[0], **written[1]}:
            then, other = (values.get(place) or self._find(place) for values in written)
            # Not found is a variable of the branch itself.
            if then is not None and other is not None:
                self.values[-1][place] = self.netlist.mux(choice, then, other)

    def value(self, node: Node) -> Net:
        """The value of an expression of integer type."""
        kind, children = node.kind, node.children
        if kind in _PLACES:
            if kind == "DECL_REF_EXPR" and node.referenced_id not in self.scope:
                return self._named_constant(node)
            return self._load(self.place(node), integer_type(node), node)
        if kind in _CASTS or kind == "PAREN_EXPR":
            return self.netlist.convert(self.value(children[-1]), integer_type(node))
        try:
            if kind == "BINARY_OPERATOR":
                left, right = map(self.value, children)
                return self.netlist.binary(node.operator, left, right, integer_type(node))
            if kind == "CONDITIONAL_OPERATOR":
                condition = self.value(children[0])
                if condition.constant is not None:
                    return self.value(children[1 if condition.constant else 2])
                return self.netlist.mux(condition, self.value(children[1]), self.value(children[2]))
            if kind == "UNARY_OPERATOR" and node.operator == "!":
                return self.netlist.negation(self.value(children[0]))
            if kind == "UNARY_OPERATOR" and node.operator == "-":
                return self.netlist.binary("-", self.netlist.constant(0), self.value(children[0]), integer_type(node))
        except Unsupported as error:
            raise located(node, str(error)) from None
        return self._named_constant(node)

    def _named_constant(self, node: Node) -> Net:
        value = constant(node)
        if value is None:
            raise located(node, f"an expression of kind {node.kind} is not supported")
        return self.netlist.constant(value)

    def place(self, node: Node) -> _Place:
        """The variable, or the part of one, that an expression names."""
        node = node.bare()
        if node.kind == "DECL_REF_EXPR" and node.referenced_id in self.scope:
            return self.scope[node.referenced_id]
        if node.kind == "MEMBER_REF_EXPR":
            return self.place(node.children[0]).inner((node.name,))
        if node.kind == "ARRAY_SUBSCRIPT_EXPR":
            index = self.value(node.children[1]).constant
            if index is None:
                raise located(node, "the index is not constant")
            size = array_size(node.children[0].bare())
            if size is None or not 0 <= index < size:
                raise located(node, f"index {index} is outside of an array of {size}")
            return self.place(node.children[0]).inner((index,))
        raise located(node, f"{node.kind} {node.name} is not a variable of this function")

    def _load(self, place: _Place, ctype: CType, node: Node) -> Net:
        self.types.setdefault(place, ctype)
        found = self._find(place)
        if found is None:
            raise located(node, f"{place.root.split(':')[0]} is read before it is written")
        return found

    def _find(self, place: _Place) -> Net | None:
        """The value of a scalar whose type is known by now; None if it is a local variable without one."""
        for values in reversed(self.values):
            if place in values:
                return values[place]
        source = self.sources.get(place.root)
        if source is None:
            return None
        name = place.verilog(source[0])
        found = self.netlist.source(source, name, self.narrow.get(name, self.types[place]))
        if source == "input":
            self.inputs[place] = Port(found.name, place.cpp(), self.types[place], found)
        else:
            self.registers[place] = found
        self.values[0][place] = found
        return found

    def _store(self, place: _Place, value: Net, ctype: CType) -> None:
        self.types.setdefault(place, ctype)
        self.values[-1][place] = self.netlist.convert(value, ctype)

    STATEMENTS: dict[str, Callable[[_Translator, Node], None]] = {
        "COMPOUND_STMT": _sequence,
        "LABEL_STMT": _sequence,
        "DECL_STMT": _declare,
        "BINARY_OPERATOR": _assign,
        "COMPOUND_ASSIGNMENT_OPERATOR": _compound_assign,
        "UNARY_OPERATOR": _step,
        "CALL_EXPR": _call,
        "FOR_STMT": _loop,
        "IF_STMT": _branch,
    }
