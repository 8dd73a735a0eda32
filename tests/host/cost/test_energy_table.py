"""Energy tables of the user's own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from systolora.cost.energy_table import energy_table
from systolora.cost.run import find_workload
from systolora.cost.settings import SimulateSettings
from systolora.cost.simulation import simulate_workload
from systolora.errors import UserError
from systolora.sim.cost.energy import technology


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.yaml", "mac: 0.5\ndram_byte: 1e-1\nnode: 22\n"),
        ("mine.json", '{"mac": 0.5, "dram-byte": 0.1, "node": 22}'),
    ],
)
def test_what_a_file_leaves_out_is_the_technology_s(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert energy_table("7nm", str(path)) == replace(technology("7nm"), name="mine", mac=0.5, dram_byte=0.1, node=22)
    assert energy_table("7nm") == technology("7nm")


def test_it_is_what_the_energy_is_made_of(tmp_path: Path) -> None:
    path, table = tmp_path / "list.csv", tmp_path / "free.yaml"
    path.write_text("m,n,k\n64,64,64\n")
    table.write_text("name: free memory\ndram_byte: 0\nsram_byte: 0\nregister: 0\nelement: 0\nmac: 2\n")
    settings = SimulateSettings(gemms=str(path), energy=str(table))
    done = simulate_workload(settings, find_workload(settings)).as_dict()
    assert done["step"]["energy_j"] == pytest.approx(2e-12 * 64**3)
    assert done["technology"] == done["provenance"]["energy"]["name"] == "free memory"
    assert set(done["provenance"]["energy"]) == set(asdict(technology("7nm")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("macs: 1\n", "there is no setting 'macs'; there are name, node, mac, register, element, sram_byte, dram_byte"),
        ("macs: 1\n", "did you mean 'mac'?"),
        ("mac: fast\n", "mac = 'fast': expected a number"),
        ("mac: yes\n", "mac = True: expected a number"),
        ("mac: .nan\n", "mac = nan: it must be a finite number, not negative"),
        ("mac: .inf\n", "mac = inf: it must be a finite number"),
        ("mac: -1\n", "mac = -1: it must be a finite number, not negative"),
        ("node: 0\n", "node = 0: expected nanometres, 1 to 1000"),
        ("node: 1.5\n", "node = 1.5: expected a whole number"),
        ("mac: 1\nmac: 2\n", "line 2: mac is given a second time, after line 1"),
        ("mac:\n  a: 1\n", "line 2: a list or a mapping; expected 'name: value'"),
        ("- 1\n", "expected lines of 'name: value', found list"),
        ("", "it is empty; expected lines of 'name: value', names are name, node, mac"),
        ('mac: "0.5', "cannot be read as YAML"),
        ('{"mac": 0.5', "cannot be read as YAML"),
    ],
)
def test_a_wrong_table_gets_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        energy_table("7nm", str(path))
    assert said in str(error.value) and str(error.value).startswith(f"--energy {path}")
    assert "\n" not in str(error.value)


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--energy .*nowhere: cannot be read as YAML: No such file"):
        energy_table("7nm", str(tmp_path / "nowhere"))
