"""The rules about on-chip memories and about state: id, what is allowed, what goes wrong otherwise, source."""

from __future__ import annotations

MEMORY_RULES: tuple[tuple[str, str, str, str], ...] = (
    (
        "MEM01",
        "say what holds an array that is cut into several memories, or of more than 64 elements: BIND_STORAGE with type= and"
        " impl= (not auto), or cut it into registers with ARRAY_PARTITION type=complete dim=0",
        "the tool chooses by itself, and may take a block RAM for each piece",
        "UG1399, BIND_STORAGE",
    ),
    (
        "MEM02",
        "bind an array that is cut into memories of at most 64 words to LUT RAM: impl=lutram",
        "each piece takes a block of its own, however few words it has",
        "UG1399, BIND_STORAGE; UG474, distributed RAM",
    ),
    (
        "MEM03",
        "give UltraRAM of more than 4,096 words latency=3, of more than 16,384 words latency=4, or more",
        "blocks that are cascaded without a register between them are too slow for the clock",
        "UG573, UltraRAM cascade",
    ),
    (
        "STA01",
        "give a function with INLINE off, through which a register of a pipelined loop or function goes round,"
        " LATENCY max=0, or make it INLINE",
        "with a register inside it the next clock cannot begin with the value of this one, and II grows",
        "UG1399, LATENCY; rule of this project",
    ),
)
