"""The lint: each rule bites exactly where a wrong source says so, and nowhere in a right one."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from systolora.sim.lint.grammar import read_pragma
from systolora.sim.lint.page import rules_page
from systolora.sim.lint.pragmas import FORMS, pragma_text, split_options
from systolora.sim.lint.rules import RULES
from systolora.sim.lint.run import LintError, lint_file, lint_folder, run_lint
from systolora.sim.lint.tree import Problem, load_libclang

HERE = Path(__file__).parent
GOOD = HERE / "good"
BAD = sorted((HERE / "bad").glob("*.cpp"))
TOP = "systolora_top"


def expected(source: Path) -> list[tuple[str, int]]:
    """What the comments of a wrong source announce: (rule, line)."""
    found = re.findall(r"^// finding: (\w+) on line (\d+)$", source.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted((rule, int(line)) for rule, line in found)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the good accelerator, and a test bench that is none of synthesis's business."""
    for name in ("top.cpp", "types.hpp"):
        shutil.copy(GOOD / name, tmp_path / name)
    bench = "#include <vector>\nint main() {\n    std::vector<int> golden(4);\n    return golden[0];\n}\n"
    (tmp_path / "tb.cpp").write_text(bench)
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def rules_of(folder: Path) -> set[str]:
    return {finding.rule for finding in lint_folder(folder)}


@pytest.mark.parametrize("source", BAD, ids=lambda path: path.stem)
def test_rule_bites_exactly_there(source: Path) -> None:
    findings = lint_file(source, top=TOP)
    assert sorted({(f.rule, f.line) for f in findings}) == expected(source)
    assert {f.file for f in findings} == {str(source)}


def test_each_rule_has_a_wrong_source_that_shows_it() -> None:
    assert {source.stem for source in BAD} == set(RULES)
    for source in BAD:
        assert source.stem in {rule for rule, _ in expected(source)}


@pytest.mark.parametrize("name", ["top.cpp", "dataflow.cpp", "bursts.cpp"])
def test_good_source_gives_no_finding(name: str) -> None:
    assert lint_file(GOOD / name, top=TOP) == []


def test_messages_are_one_line_and_end_with_what_is_allowed() -> None:
    for source in BAD:
        for finding in lint_file(source, top=TOP):
            assert "\n" not in finding.message
            assert finding.message.endswith(RULES[finding.rule].allowed)


# Each change is one slip on the way to synthesis in an otherwise good accelerator.
SLIPS = [
    ("#pragma HLS INTERFACE mode=s_axilite port=return\n", "", "IFC02"),
    (" depth=256 max_read", " max_read", "IFC03"),
    ("offset=0x1c", "offset=0x14", "IFC07"),
    ("instances=run_step", "instances=run_steps", "PRG12"),
    ("variable=input_ping", "variable=input_pin", "PRG09"),
    ("type=ram_s2p impl=uram", "type=ram_s2p impl=ultraram", "PRG16"),
    ("// Proof: iteration", "// Iteration", "PRG15"),
    ("PIPELINE II=1", "PIPELINE 2=II", "PRG04"),
    ("PIPELINE II=1", "PIPELIN II=1", "PRG02"),
    ("max=kDepth", "max=kDeep", "PRG11"),
    ("load_words:\n", "", "LOOP05"),
    ("#pragma HLS LOOP_TRIPCOUNT min=1 max=kMostTiles\n", "", "LOOP02"),
    ("for (int tile = 0; tile < count; ++tile)", "for (int tile = 0; tile < count;)", "LOOP01"),
    ("c < kCols; ++c", "c < word.lane[0]; ++c", "LOOP03"),
    ("        } else {\n", "        }\n        {\n", "SUB13"),
    ("const int count = ", "const int* count_at = new int(tiles);\n    const int count = ", "SUB01"),
    ("dim=1 type=complete", "dim=2 type=complete", "PRG11"),
]


@pytest.mark.parametrize(("old", "new", "rule"), SLIPS, ids=[f"{rule}-{old[:20]}" for old, _, rule in SLIPS])
def test_one_slip_in_a_good_project_is_found(project: Path, old: str, new: str, rule: str) -> None:
    assert lint_folder(project) == []
    change(project / "top.cpp", old, new)
    assert rule in rules_of(project)


def test_a_finding_in_a_header_is_told_once(project: Path) -> None:
    more = '#include "types.hpp"\nint helper(int n) {\n    return n + kRows;\n}\n'
    (project / "helper.cpp").write_text(more)
    change(project / "top.cpp", "static int clamp_count", "int helper(int n);\n\nstatic int clamp_count")
    change(project / "top.cpp", "clamp_count(tiles)", "clamp_count(helper(tiles))")
    change(project / "types.hpp", "sum_t lane[kCols];", "sum_t lane[kCols];\n    long double error;")
    assert [(f.rule, Path(f.file).name) for f in lint_folder(project)] == [("SUB10", "types.hpp")]


def test_recursion_and_shared_state_are_seen_across_files(project: Path) -> None:
    helper = "int helper(int n);\nint other(int n) {\n    static int sum;\n    sum += n;\n    return helper(sum);\n}\n"
    (project / "helper.cpp").write_text(helper)
    text = "int other(int n);\nint helper(int n) {\n    return other(n) + other(n + 1);\n}\nstatic int clamp_count"
    change(project / "top.cpp", "static int clamp_count", text)
    change(project / "top.cpp", "clamp_count(tiles)", "clamp_count(helper(tiles))")
    assert rules_of(project) == {"SUB03", "SUB13"}


def test_configuration_names_sources_and_top(project: Path) -> None:
    change(project / "top.cpp", "void systolora_top", "void accelerator")
    (project / "scratch.cpp").write_text("this is not C++\n")
    assert "SRC01" in rules_of(project)
    configuration = "part=xck26\n[hls]\nsyn.top = accelerator\nsyn.file=top.cpp\nsyn.file=types.hpp\ntb.file=tb.cpp\n"
    (project / "hls_config.cfg").write_text(configuration)
    assert lint_folder(project) == []
    change(project / "hls_config.cfg", "accelerator", "accelerate")
    assert rules_of(project) == {"IFC01"}
    change(project / "hls_config.cfg", "syn.file=top.cpp", "syn.file=tip.cpp")
    with pytest.raises(LintError, match=r"tip\.cpp is named in hls_config\.cfg but does not exist"):
        lint_folder(project)


def test_simulation_only_code_is_not_checked_but_other_guards_are(project: Path) -> None:
    change(project / "top.cpp", "#ifndef __SYNTHESIS__\n#include", "#ifndef NDEBUG\n#include")
    change(project / "top.cpp", "#ifndef __SYNTHESIS__\n        trace", "#ifndef NDEBUG\n        trace")
    assert rules_of(project) == {"SUB02"}


def test_a_comment_in_latin_1_changes_no_finding(project: Path) -> None:
    text = (project / "top.cpp").read_text(encoding="utf-8").replace("load_words:\n", "").replace("// ", "// größe ")
    (project / "top.cpp").write_bytes(text.encode("latin-1"))
    (project / "hls_config.cfg").write_bytes("# für\nsyn.top=systolora_top\nsyn.file=top.cpp\n".encode("latin-1"))
    assert rules_of(project) == {"LOOP05"}


def test_missing_things_are_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LintError, match="no folder .*nowhere: give the folder"):
        lint_folder(tmp_path / "nowhere")
    with pytest.raises(LintError, match=r"no C\+\+ files in"):
        lint_folder(tmp_path)
    with pytest.raises(LintError, match=r"no file .*a\.cpp: give a C\+\+ source"):
        lint_file(tmp_path / "a.cpp")
    monkeypatch.setitem(sys.modules, "clang.cindex", None)
    load_libclang.cache_clear()
    (tmp_path / "a.cpp").write_text("int a;\n")
    try:
        with pytest.raises(LintError, match="needs the Python package libclang.*pip install"):
            lint_folder(tmp_path)
    finally:
        load_libclang.cache_clear()


def test_run_prints_findings_and_a_summary(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_lint(project, json=False) == 0
    assert capsys.readouterr().out == f"{project}: no findings ({len(RULES)} rules, see docs/lint.md)\n"
    change(project / "top.cpp", "load_words:\n", "")
    assert run_lint(project, json=False) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{re.escape(str(project / 'top.cpp'))}:\d+: LOOP05 a loop in load_tile has .*", first)
    assert last == f"{project}: 1 finding ({len(RULES)} rules, see docs/lint.md)"


def test_run_gives_json_and_codes(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(project / "top.cpp", "load_words:\n", "")
    assert run_lint(project, json=True) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["count"] == 1
    assert [row["rule"] for row in answer["findings"]] == ["LOOP05"]
    assert run_lint(project / "nowhere", json=True) == 2
    assert "no folder" in capsys.readouterr().err


def test_rules_page_is_current() -> None:
    page = (HERE.parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")
    assert page == rules_page(), "run: python -m systolora.sim.lint.page > docs/lint.md"
    for rule in RULES:
        assert f"| {rule} |" in page


def test_options_are_split_as_vitis_reads_them() -> None:
    text = "mode = m_axi port=x depth= 4 * kRows complete variable=a.b[2], c dim=-1 off"
    assert list(split_options(text)) == [
        ("mode", "m_axi"),
        ("port", "x"),
        ("depth", "4*kRows"),
        ("complete", None),
        ("variable", "a.b[2],c"),
        ("dim", "-1"),
        ("off", None),
    ]
    source = "int a;\n#pragma HLS PIPELINE \\\n    II=2 /* why */ rewind // more\n"
    assert pragma_text(source, 2).split() == ["#pragma", "HLS", "PIPELINE", "II=2", "rewind"]


@pytest.mark.parametrize("name", sorted(FORMS))
def test_every_pragma_is_known_in_either_case(name: str) -> None:
    for spelling in (name, name.upper()):
        pragma, _ = read_pragma(Problem("a.cpp", 1, 0, ""), f"#pragma HLS {spelling}")
        assert pragma is not None
        assert pragma.name == name
