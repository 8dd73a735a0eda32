"""Whether a configuration fits its board, the largest array that does, and the table of boards."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .boards import BOARD_TABLE, Board, board_of, pl_clock
from .config import ACCUMULATOR_BYTES, BOARDS, ArrayConfig, ConfigError, fitted_config
from .resources import KINDS, Estimate, array_resources, estimate, share

MARGIN = 0.85
"""Up to this part of each resource a design is said to fit; beyond it place and route rarely meets timing."""

_STEP = 8
_MEMORY_SIZES = ((512, 512, 1024), (512, 512, 512), (256, 256, 512), (256, 256, 256), (128, 128, 256), (64, 64, 128))
"""Input, weight and output memory in KB, tried from the largest."""


@dataclass(frozen=True)
class Fit:
    """A configuration against a board: the estimate, and by resource the part of the budget that it takes."""

    board: Board
    estimate: Estimate
    shares: dict[str, float]

    @property
    def fullest(self) -> str:
        """Name of the scarcest resource."""
        return max(self.shares, key=lambda kind: self.shares[kind])

    @property
    def verdict(self) -> str:
        """ "fits", "tight" (between `MARGIN` and all of it) or "too large"."""
        most = self.shares[self.fullest]
        if most > 1:
            return "too large"
        return "fits" if most <= MARGIN else "tight"


def fits(config: ArrayConfig) -> Fit | None:
    """The configuration against its board; None if it names none.

    Raises:
        ConfigError: if its board is unknown or its part is not the board's.
    """
    board = board_of(config)
    return None if board is None else _fit(config, board)


def _fit(config: ArrayConfig, board: Board) -> Fit:
    available = board.budget
    result = estimate(config, available)
    shares = {kind: share(getattr(result.total, kind), getattr(available, kind)) for kind in KINDS}
    return Fit(board, result, shares)


def require_fit(config: ArrayConfig) -> Fit | None:
    """The fit of a configuration that can be built; None if it names no board.

    Raises:
        ConfigError: if its board does not hold it; the text gives what is needed, what there is, and the largest array.
    """
    fit = fits(config)
    if fit is None or fit.verdict != "too large":
        return fit
    available = fit.board.budget
    over = [
        f"{kind.upper()} {getattr(fit.estimate.total, kind):,} of {getattr(available, kind):,}"
        for kind in KINDS
        if fit.shares[kind] > 1
    ]
    largest = largest_array(fit.board)
    raise ConfigError(
        f"{config.rows} x {config.cols} with {config.input_bytes >> 10} + {config.weight_bytes >> 10} + "
        f"{config.output_bytes >> 10} KB does not fit {fit.board.title}: it needs an estimated {', '.join(over)}; "
        f"the largest array that fits is {largest.rows} x {largest.cols}; "
        "give smaller --rows, --cols or memories, or another board"
    )


def largest_array(board: Board) -> ArrayConfig:
    """The configuration with the most PEs that fits: sides in steps of 8, none more than twice the other.

    Of equal arrays the one nearest to a square, then the one with the larger memories, then the one with fewer DSPs. Bus and
    clock are the preset's.
    """
    preset = BOARDS[board.name]
    sides = range(_STEP, 129, _STEP)
    shapes = [(rows, cols) for rows in sides for cols in sides if rows <= 2 * cols and cols <= 2 * rows]
    shapes.sort(key=lambda shape: (-shape[0] * shape[1], abs(shape[0] - shape[1]), shape))
    for rows, cols in shapes:
        # The array is by far the largest part: most shapes are ruled out by it alone.
        smallest = array_resources(_sized(preset, rows, cols, _MEMORY_SIZES[-1], packed=False))
        if smallest.lut > MARGIN * board.lut:
            continue
        for sizes in _MEMORY_SIZES:
            for packed in (True, False):
                config = _sized(preset, rows, cols, sizes, packed)
                if _fit(config, board).verdict == "fits":
                    return config
    raise ConfigError(f"{board.title} holds no array of {_STEP} x {_STEP} or more")


def _sized(preset: ArrayConfig, rows: int, cols: int, sizes: tuple[int, int, int], packed: bool) -> ArrayConfig:
    """The preset with another array; each memory gets the largest power of two of words that its size holds."""
    words = (rows, cols, ACCUMULATOR_BYTES * cols)
    names = ("input_bytes", "weight_bytes", "output_bytes")
    changes: dict[str, object] = {"rows": rows, "cols": cols, "packed_dsp": packed}
    for name, word, size in zip(names, words, sizes, strict=True):
        changes[name] = 2 * word * (1 << ((size << 10) // (2 * word)).bit_length() - 1)
    return fitted_config(preset, changes)


def boards_table() -> list[dict[str, object]]:
    """One dictionary per board: name, part, budget, the preset's estimate, preset and largest array with their own."""
    table: list[dict[str, object]] = []
    for board in BOARD_TABLE.values():
        preset = _described(BOARDS[board.name], board)
        table.append(
            {
                "name": board.name,
                "title": board.title,
                "part": board.part,
                "budget": asdict(board.budget),
                "dram_gbps": board.dram_gbps,
                "estimate": preset["estimate"],
                "preset": preset,
                "largest": _described(largest_array(board), board),
            }
        )
    return table


def _described(config: ArrayConfig, board: Board) -> dict[str, object]:
    fit = _fit(config, board)
    return {
        "rows": config.rows,
        "cols": config.cols,
        "input_bytes": config.input_bytes,
        "weight_bytes": config.weight_bytes,
        "output_bytes": config.output_bytes,
        "bus_bytes": config.bus_bytes,
        "packed_dsp": config.packed_dsp,
        "clock_mhz": pl_clock(config).mhz,
        "peak_tops": round(config.peak_tops, 3),
        "fingerprint": config.fingerprint_text,
        "estimate": asdict(fit.estimate.total),
        "shares": {kind: round(value, 3) for kind, value in fit.shares.items()},
        "storage": fit.estimate.storage,
        "verdict": fit.verdict,
    }
