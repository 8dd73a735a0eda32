"""The initiation intervals that the generated C++ asks for, by loop label: what a synthesis report is compared with.

A pragma gives a number or a constant expression of `config.hpp` (`II=kBusFloats`). Labels are not unique: one that stands before several
loops has the intervals of all of them.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

_LOOP = re.compile(r"^ *(\w+):\n *(?:for|while|do)\b[^\n]*\n((?:#pragma HLS [^\n]*\n|//[^\n]*\n)*)", re.MULTILINE)
_PIPELINE = re.compile(r"#pragma HLS PIPELINE\b([^\n]*)")
_INTERVAL = re.compile(r"\bII=(\S+)")
_CONSTANT = re.compile(r"^constexpr (?:int|uint32_t|uint64_t|bool) (\w+) =\s*([^;]+);", re.MULTILINE)
_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def pipelined_intervals(sources: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Label of a loop -> the intervals asked for at the loops of that name, ascending; 0 is a loop without a pipeline.

    Unrolled loops are left out: a report does not have them.

    Args:
        sources: the generated C++, path -> text.

    Raises:
        ValueError: for an interval that is no constant expression of the sources.
    """
    constants = {name: value for text in sources.values() for name, value in _CONSTANT.findall(text)}
    found: dict[str, set[int]] = {}
    for text in sources.values():
        for label, pragmas in _LOOP.findall(text):
            if "#pragma HLS UNROLL" not in pragmas:
                found.setdefault(label, set()).add(_asked(pragmas, constants))
    return {label: tuple(sorted(values)) for label, values in sorted(found.items()) if values != {0}}


def _asked(pragmas: str, constants: Mapping[str, str]) -> int:
    pipeline = _PIPELINE.search(pragmas)
    if pipeline is None:
        return 0
    interval = _INTERVAL.search(pipeline.group(1))
    return _value(interval.group(1), constants) if interval else 1


def _value(expression: str, constants: Mapping[str, str]) -> int:
    try:
        return _evaluate(ast.parse(expression.strip(), mode="eval").body, constants)
    except (SyntaxError, KeyError) as error:
        raise ValueError(f"II={expression}: not a constant of the generated text ({error})") from None


def _evaluate(node: ast.expr, constants: Mapping[str, str]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return _value(constants[node.id], constants)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_evaluate(node.left, constants), _evaluate(node.right, constants))
    raise KeyError(ast.unparse(node))
