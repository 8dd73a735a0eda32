"""The rules about memory ports and about functions side by side: id, what is allowed, what goes wrong otherwise, source."""

from __future__ import annotations

PORT_RULES: tuple[tuple[str, str, str, str], ...] = (
    # --- bursts that are asked for by hand
    (
        "BRS01",
        "ask for words before they are read or written: call read_request() or write_request() on every way there",
        "a word that was never asked for is waited for without end",
        "UG1399, manual burst",
    ),
    (
        "BRS02",
        "ask for at least one word: a positive constant, or inside an if that compares the number with zero",
        "requests of no words have hung adapters, and their answer never comes",
        "UG1399, manual burst; open-power/snap, issue 652",
    ),
    (
        "BRS03",
        "take a write_response() for each write_request(), behind it in the function or in every caller",
        "until it is there the words may not be in memory, and the adapter holds their place",
        "UG1399, manual burst",
    ),
    (
        "BRS04",
        "a loop that only asks has a constant bound, and asks for no more than num_read_outstanding or num_write_outstanding",
        "beyond that a request waits for words that nobody takes",
        "UG1399, manual burst",
    ),
    # --- side by side
    (
        "PAR01",
        "calls under the comment 'Side by side:' stand in one block, once each, and share no array, port, result or variable"
        " that is written",
        "the tool runs them one after the other, without a word, and C-simulation shows no difference",
        "UG1399, loop parallelism",
    ),
    (
        "PAR02",
        "a function with ALLOCATION limit=1 has at most two call sites, the branches of one if: nest such functions",
        "that two sites share one instance was seen on boards, more was not; a copy would have memories of its own",
        "rule of this project",
    ),
)
