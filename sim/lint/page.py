"""docs/lint.md, made from the rule table: ``python -m systolora.sim.lint.page > docs/lint.md``."""

from __future__ import annotations

import sys

from .rules import RULES

_GROUPS = (
    ("SRC", "The source"),
    ("SUB", "The C++ subset"),
    ("PRG", "Pragmas"),
    ("LOOP", "Loops"),
    ("DFL", "Dataflow regions"),
    ("IFC", "Interface of the top function"),
    ("BRS", "Bursts that are asked for by hand"),
    ("PAR", "Functions side by side"),
    ("MEM", "On-chip memories"),
    ("STA", "State that goes round in one clock"),
)

_PREAMBLE = """# What `systolora lint` checks

`systolora lint DIR` reads HLS C++ through libclang's syntax tree and reports what Vitis HLS would refuse, skip
without a word, or turn into hardware that differs from C-simulation. It prints `file:line: RULE message`; the exit
code is 1 if there is any finding.

It reads what Vitis would be given: the files named by `syn.file` in an `hls_config.cfg` below the folder, otherwise
each C++ source that takes part in the top function. `__SYNTHESIS__` and `SYSTOLORA_NATIVE` are defined, so that
simulation-only code is left out. Headers named `ap_*.h` and `hls_*.h`, which the tool brings and the project's stand-in
replaces, are read but not checked. It is our reading of public documents, not Vitis.

This page is made from the rule table: `python -m systolora.sim.lint.page > docs/lint.md`.
"""


def rules_page() -> str:
    """docs/lint.md: the rule table as Markdown, grouped by the letters of the rule ids."""
    parts = [_PREAMBLE]
    for prefix, title in _GROUPS:
        parts.append(f"## {title}\n")
        parts.append("| rule | what is allowed, what to do | why | source |\n|---|---|---|---|")
        for rule in RULES.values():
            if rule.id.rstrip("0123456789") == prefix:
                parts.append(f"| {rule.id} | {rule.allowed} | {rule.reason} | {rule.source} |")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(rules_page())
