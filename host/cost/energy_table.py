"""The energy per operation of a simulation: a built-in technology, or a file of the user's own."""

from __future__ import annotations

from dataclasses import fields, replace
from math import isfinite
from pathlib import Path

from systolora.errors import UserError
from systolora.options import merge_settings
from systolora.sim.cost.energy import Technology, technology
from systolora.training.settings_file import load_settings_file


def energy_table(base: str, file: str = "") -> Technology:
    """The technology called `base`, with what a YAML or JSON file says in its place.

    The file holds fields of `Technology`, energies in picojoules; a table without a name is called by its file.

    Raises:
        UserError: for a file that cannot be read, a name that is no field, and a value that is no finite number from 0 on.
    """
    start = technology(base)
    if not file:
        return start
    origin = f"--energy {file}"
    given = load_settings_file(Path(file), "--energy")
    if not given:
        names = ", ".join(item.name for item in fields(Technology))
        raise UserError(f"{origin}: it is empty; expected lines of 'name: value', names are {names}")
    table = merge_settings(replace(start, name=Path(file).stem), given, origin)
    for name, value in vars(table).items():
        if isinstance(value, (int, float)) and not (isfinite(value) and value >= 0):
            raise UserError(f"{origin}: {name} = {value:g}: it must be a finite number, not negative")
    if not 1 <= table.node <= 1000:
        raise UserError(f"{origin}: node = {table.node}: expected nanometres, 1 to 1000")
    return table
