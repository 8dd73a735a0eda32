"""The rules of ``systolora lint``: one table, from which messages and docs/lint.md are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .memory_rules import MEMORY_RULES
from .port_rules import PORT_RULES

_GRAMMAR = "Xilinx/hls-llvm-project, XlxPragmaOption.td"
_SUBSET = "Xilinx/ross-ai-assistant, hls-synthesizable"
_SCOPE = "Xilinx/ross-ai-assistant, hls-pragma-scope"
_DATAFLOW = "Xilinx/ross-ai-assistant, hls-dataflow"
_HOUSE = "rule of this project"


@dataclass(frozen=True)
class Rule:
    """One check: ``allowed`` says what is right and what to do, ``reason`` what goes wrong otherwise."""

    id: str
    allowed: str
    reason: str
    source: str


@dataclass(frozen=True, order=True)
class Finding:
    """One place that breaks a rule; ``message`` is one line: what was found, what is allowed, what to do."""

    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        """``file:line: RULE message``, as compilers print it."""
        return f"{self.file}:{self.line}: {self.rule} {self.message}"


_TABLE = (
    Rule(
        "SRC01",
        "mend the source until a C++14 compiler takes it",
        "nothing can be said about a file that does not compile",
        "C++14",
    ),
    # --- the C++ subset
    Rule(
        "SUB01",
        "all storage has a size fixed at compile time: use a static or local array",
        "hardware has no heap",
        f"{_SUBSET}, rule 2",
    ),
    Rule(
        "SUB02",
        "call only functions defined in these sources, mathematics, memcpy/memset, assert, std::min/max and hls::;"
        " put the rest between #ifndef __SYNTHESIS__ and #endif",
        "system and library calls have no hardware",
        f"{_SUBSET}, rules 1 and 5",
    ),
    Rule(
        "SUB03",
        "no function reaches itself: write a loop with a constant bound",
        "each call level is a piece of hardware, so the depth must be known",
        f"{_SUBSET}, rule 4",
    ),
    Rule(
        "SUB04",
        "each call has one known target: use plain functions (no virtual, dynamic_cast, typeid)",
        "there is no table of functions in hardware",
        f"{_SUBSET}, rules 3 and 8",
    ),
    Rule(
        "SUB05",
        "report errors by a returned code or a status word",
        "exceptions need a run-time system",
        "UG1399, unsupported C/C++ constructs",
    ),
    Rule(
        "SUB06",
        "of namespace std only complex and numeric_limits: use arrays and plain structs",
        "STL containers allocate memory and recurse",
        f"{_SUBSET}, rule 5",
    ),
    Rule(
        "SUB07",
        "each call has one known target: call the function by name, choose with if or switch",
        "a call through a pointer has no fixed hardware behind it",
        f"{_SUBSET}, rule 7",
    ),
    Rule(
        "SUB08",
        "at most one level of pointer: pass the array itself, or an index into it",
        "the target memory of each access must be known",
        f"{_SUBSET}, rule 9",
    ),
    Rule(
        "SUB09",
        "array sizes are constant expressions: declare the largest size needed",
        "a memory's size is fixed in hardware",
        "UG1399, memory with constant size",
    ),
    Rule("SUB10", "use float or double, or better an integer", "no hardware for it", f"{_SUBSET}, rule 6"),
    Rule(
        "SUB11",
        "use if, for, break, continue and return",
        "a jump hides the structure from scheduling; assembly means nothing in hardware",
        _HOUSE,
    ),
    Rule(
        "SUB12",
        "cast pointers between native number types only; convert words field by field or with shifts",
        "the bits of ap types and structs lie differently in hardware than on a CPU",
        f"{_SUBSET}, rule 10",
    ),
    Rule(
        "SUB13",
        "a function with static variables has one call site, or sites of which only one can run"
        " (branches of one if or switch): pass the state in as an argument, or make it a template, of which each instance"
        " has its own",
        "copies of the hardware would have to share the state, and C-simulation hides it",
        f"{_DATAFLOW}, rule 5",
    ),
    # --- pragmas
    Rule(
        "PRG01",
        "only '#pragma HLS ...' as a plain line, spelled so",
        "compilers skip pragmas they do not know without a word",
        "Xilinx/hls-llvm-project, ParseXlxPragma.cpp",
    ),
    Rule("PRG02", "use a name of the grammar", "an unknown HLS pragma is skipped without a word", _GRAMMAR),
    Rule("PRG03", "use the form that replaced it", "deprecated forms are dropped by newer releases", _GRAMMAR),
    Rule("PRG04", "use an option of this pragma", "the pragma is refused or skipped", _GRAMMAR),
    Rule("PRG05", "give a value of the listed kind", "the pragma is refused or skipped", _GRAMMAR),
    Rule("PRG06", "give each required option", "the pragma is refused", _GRAMMAR),
    Rule("PRG07", "put the pragma between the braces it is about", "outside a function it is an error", _SCOPE),
    Rule(
        "PRG08",
        "put the pragma directly between the braces of the loop or function it is about",
        "elsewhere it applies to something else or to nothing",
        f"{_SCOPE}, rules 1 to 5",
    ),
    Rule(
        "PRG09",
        "name a variable that is declared above the pragma and visible there",
        "the pragma finds nothing to act on",
        f"{_SCOPE}, rule 6",
    ),
    Rule(
        "PRG10",
        "say each thing once",
        "of two contradicting pragmas one is dropped without a word",
        f"{_SCOPE}, rule 8.3",
    ),
    Rule(
        "PRG11",
        "numbers are integer constants: literals or constexpr names, in range",
        "the pragma is refused or skipped",
        _GRAMMAR,
    ),
    Rule(
        "PRG12",
        "name a function that is called in this scope (ALLOCATION belongs to the caller)",
        "a limit on something else has no effect",
        f"{_SCOPE}, rule 5.4",
    ),
    Rule(
        "PRG13",
        "at most 1024 pieces per array: partition fewer dimensions, or split the array by row",
        "beyond it csynth takes hours or stops",
        "UG1448, message HLS 200-868",
    ),
    Rule(
        "PRG14",
        "leave the multiplier of a multiply-accumulate unbound",
        "a bound multiplier keeps the adder out of its DSP block",
        "UG1399, BIND_OP",
    ),
    Rule(
        "PRG15",
        "put a comment with the word 'proof' in the two lines above the pragma or the line below it,"
        " saying why no two iterations meet",
        "a wrong promise gives wrong hardware, and C-simulation cannot show it",
        _HOUSE,
    ),
    Rule(
        "PRG16",
        "use a storage type and implementation that the device has",
        "the binding is refused or skipped",
        "UG1399, BIND_STORAGE and BIND_OP",
    ),
    # --- loops
    Rule(
        "LOOP01",
        "write for (int i = first; i < bound; i += step) with a constant step, and leave i alone in the body",
        "only a counting loop surely ends; no input may hang the accelerator",
        _HOUSE,
    ),
    Rule(
        "LOOP02",
        "give the loop LOOP_TRIPCOUNT min= max=, or a constant bound",
        "without it reports cannot say how long the loop takes",
        "UG1399, LOOP_TRIPCOUNT",
    ),
    Rule(
        "LOOP03",
        "unroll loops with constant bounds only",
        "the number of copies must be known",
        "UG1399, UNROLL",
    ),
    Rule(
        "LOOP04",
        "loops inside a pipelined loop or function (functions called there included) have constant bounds",
        "they must be unrolled; if one cannot be, PIPELINE is skipped",
        f"{_SCOPE}, rule 7",
    ),
    Rule("LOOP05", "label each loop", "reports name loops by label", _HOUSE),
    # --- dataflow
    Rule(
        "DFL01",
        "a dataflow region holds declarations and calls, nothing else: move the rest into a function",
        "other statements are regrouped without a word",
        f"{_DATAFLOW}, rule 4.1",
    ),
    Rule(
        "DFL02",
        "each channel has exactly one producer and one consumer"
        " (several consumers only with BIND_STORAGE type=ram_1wnr)",
        "a channel has two ends; more are a race",
        f"{_DATAFLOW}, rules 10.2 to 10.4",
    ),
    Rule(
        "DFL03",
        "data flows forward: call the producer before the consumer",
        "a ping-pong buffer cannot carry data back",
        f"{_DATAFLOW}, rule 10",
    ),
    Rule(
        "DFL04",
        "data passes through each process on its way: hand it on through the process between",
        "the bypassed channel fills and stalls its producer",
        "UG1399, dataflow: bypassing tasks",
    ),
    Rule(
        "DFL05",
        "pass whole variables: no element, no expression, no cast",
        "the call would no longer match a process and its channels",
        f"{_DATAFLOW}, rules 4.6 to 4.8",
    ),
    Rule(
        "DFL06",
        "channels are local and not static",
        "state that outlives the region is no channel",
        f"{_DATAFLOW}, rule 4.4",
    ),
    Rule(
        "DFL07",
        "an argument or global that is written is used by one process only",
        "processes run at the same time: two of them race",
        f"{_DATAFLOW}, rules 6 and 9",
    ),
    Rule(
        "DFL08",
        "a dataflow loop is for (int i = constant; i < constant or argument; i += constant), alone in its function",
        "other forms are not run as one network",
        f"{_DATAFLOW}, rule 3",
    ),
    Rule(
        "DFL09",
        "processes are void functions",
        "a returned value is a channel that nobody declared",
        f"{_DATAFLOW}, rule 4.1",
    ),
    # --- interface
    Rule(
        "IFC01",
        "define the top function that the project names",
        "without it no interface can be checked",
        _HOUSE,
    ),
    Rule(
        "IFC02",
        "each argument of the top function, and 'return', has an INTERFACE pragma",
        "the tool would choose ports by itself, and the driver would not know them",
        "UG1399, INTERFACE",
    ),
    Rule(
        "IFC03",
        "pointers and arrays use mode=m_axi with offset=slave, bundle= and depth=; streams mode=axis",
        "offset and bundle fix registers and ports; cosim needs depth",
        "UG1399, INTERFACE",
    ),
    Rule(
        "IFC04",
        "scalars, references to scalars and 'return' use mode=s_axilite",
        "the host reaches them through the register map only",
        _HOUSE,
    ),
    Rule(
        "IFC05",
        "INTERFACE belongs in the top function",
        "elsewhere it is ignored",
        f"{_SCOPE}, rule 3",
    ),
    Rule("IFC06", "port= names an argument of the function, or return", "it finds nothing to act on", _SCOPE),
    Rule(
        "IFC07",
        "s_axilite offsets are multiples of 4 from 0x10 on, each used once (a pointer's register takes 8 bytes)",
        "registers would overlap",
        "UG1399, s_axilite control register map",
    ),
    Rule(
        "IFC08",
        "device memory pointers are not volatile",
        "volatile accesses are never joined into bursts",
        "UG1399, burst transfer",
    ),
    Rule(
        "IFC09",
        "a port of type hls::burst_maxi has its bundle for itself: give each its own bundle=",
        "the adapter cannot tell requests that are made by hand from those of a pointer",
        "UG1399, manual burst",
    ),
    Rule(
        "IFC10",
        "an output register that is written in a loop is volatile wherever it is named: volatile T &;"
        " where only the last value counts, write it once behind the loop",
        "of several writes to a plain reference the tool keeps the last, and C-simulation shows no difference",
        "UG1399, understanding volatile data",
    ),
    *(Rule(*row) for row in (*PORT_RULES, *MEMORY_RULES)),
)

RULES: Mapping[str, Rule] = MappingProxyType({rule.id: rule for rule in _TABLE})
