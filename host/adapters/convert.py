"""`systolora convert`: an adapter's file under the names of other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from systolora.errors import UserError
from systolora.files import write_atomically
from systolora.outputs import try_writing

from .layers import Adapter
from .reading import read_adapter
from .writing import check_format, diffusers_file, kohya_file, peft_files


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        files: that were written. layers: how many, by part of the pipeline.
        ranks, alphas: those that occur. notes: what the user should know of the file.
    """

    files: tuple[str, ...]
    layers: dict[str, int]
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {count}" for part, count in self.layers.items())
        ranks, alphas = (", ".join(f"{value:g}" for value in values) for values in (self.ranks, self.alphas))
        return f"layers: {parts}; rank {ranks}, alpha {alphas}\n" + "\n".join(
            [*(f"note: {note}" for note in self.notes), *(f"written: {name}" for name in self.files)]
        )


def convert_adapter(adapter: Path, to: str, out: Path, force: bool = False) -> Conversion:
    """Reads an adapter under any of the names, and writes it under others.

    Args:
        to: "kohya", "diffusers" or "peft". out: a file, or for peft a folder. force: replace files that are there.

    Raises:
        UserError: one line, for an adapter or a place that cannot be used; nothing is written then.
    """
    check_format(to)
    if not force:
        _refuse_taken(out, to)
    found = read_adapter(adapter)
    try:
        if to == "peft":
            files = {out / name: data for name, data in peft_files(found).items()}
        else:
            files = {out: kohya_file(found) if to == "kohya" else diffusers_file(found)}
    except UserError as error:
        raise UserError(f"{adapter}: {error}") from None
    _write(files, out, to)
    layers = found.layers.values()
    return Conversion(
        tuple(str(path) for path in files),
        {part: len(found.of(part)) for part in found.parts},
        tuple(sorted({layer.rank for layer in layers})),
        tuple(sorted({layer.alpha for layer in layers})),
        _notes(found) if to == "kohya" else (),
    )


def _notes(adapter: Adapter) -> tuple[str, ...]:
    """What other tools make of a file in kohya's form that they should not."""
    for part in adapter.parts:
        if len({layer.alpha for layer in adapter.of(part).values()}) > 1:
            return (
                f"alpha differs between layers of {part}; kohya's tools honour that, diffusers (0.42) reads it wrong: "
                "for diffusers use --to diffusers",
            )
    return ()


def _refuse_taken(out: Path, to: str) -> None:
    taken = any(out.iterdir()) if to == "peft" and out.is_dir() else out.exists() and not out.is_dir()
    if taken:
        raise UserError(f"--out {out}: it is there already and is not overwritten; give another name, or --force")


def _write(files: dict[Path, bytes], out: Path, to: str) -> None:
    try:
        if to == "peft" and out.exists() and not out.is_dir():
            raise UserError(f"--out {out}: it is a file; peft's adapters are folders, give one")
        if to != "peft" and out.is_dir():
            raise UserError(f"--out {out}: it is a folder; give a file")
        try_writing(out if to == "peft" else out.parent)
        for path, data in files.items():
            write_atomically(path.resolve(), data)
    except OSError as error:
        raise UserError(f"--out {out}: it cannot be written: {error.strerror or error}") from None
