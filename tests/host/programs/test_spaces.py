"""Templates: a program sketched once computes the same wherever it is placed, with its labels and seeds."""

from __future__ import annotations

import numpy as np
import pytest
from systolora.hls.isa import INSTRUCTION_BYTES, Quantize, Rounding, decode
from systolora.programs.spaces import ProgramTemplate, Sketch
from systolora.programs.tensors import ElementType
from systolora.sim.functional import reference
from systolora.sim.functional.device import Buffer, DeviceError
from systolora.sim.functional.emulator import EmulatorDevice

ROWS, COLS, OUT = 9, 20, 7


def make_template(device: EmulatorDevice, rounding: Rounding = Rounding.NEAREST) -> ProgramTemplate:
    sketch = Sketch(device.config)
    inbox, work = sketch.space("inbox"), sketch.space("work")
    sketch.space("never used").matrix(4, 4, ElementType.INT8)
    x = sketch.name("x", inbox.matrix(ROWS, COLS, ElementType.FLOAT32))
    w = sketch.name("w", inbox.matrix(OUT, COLS, ElementType.INT8))
    q, scales = work.matrix(ROWS, COLS, ElementType.INT8), work.vector(ROWS)
    y = sketch.name("y", sketch.space("outbox").matrix(ROWS, OUT, ElementType.FLOAT32))
    sketch.builder.quantize(x, q, scales, rounding=rounding, label="x")
    sketch.builder.gemm(q, w, y, transpose_b=True, scale_a=scales, label="product")
    sketch.count("product", ROWS * COLS * OUT)
    return sketch.finish()


def buffers(device: EmulatorDevice, template: ProgramTemplate, gap: int) -> dict[str, Buffer]:
    found: dict[str, Buffer] = {}
    for name, size in template.sizes.items():
        device.allocate(gap)
        found[name] = device.allocate(size)
    return found


def values() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(ROWS, COLS)).astype(np.float32), random.integers(-128, 128, (OUT, COLS), np.int8)


def test_it_computes_the_same_wherever_it_is_placed() -> None:
    device = EmulatorDevice(capacity_bytes=1 << 20)
    template = make_template(device)
    assert set(template.sizes) == {"inbox", "work", "outbox"}
    assert not template.empty
    x, w = values()
    integers, scales = reference.quantize(x, 1)
    expected = reference.epilogue(reference.gemm_int32(integers, w.T), 1, scale_a=scales)
    codes = set()
    for gap in (64, 4096, 777):
        placed = buffers(device, template, gap)
        template.matrix("x", placed).write(x)
        template.matrix("w", placed).write(w)
        program = template.place(placed, "layer 3", lambda label: 0)
        device.run(program)
        assert np.array_equal(template.matrix("y", placed).read(), expected)
        assert template.place(placed, "layer 3", lambda label: 0).code is program.code, "placed once"
        codes.add(program.code)
        assert set(program.reads) == {placed["inbox"], placed["work"]}
    assert len(codes) == 3


def test_labels_name_the_layer() -> None:
    device = EmulatorDevice(capacity_bytes=1 << 20)
    template = make_template(device)
    placed = buffers(device, template, 64)
    template.matrix("x", placed).write(np.full((ROWS, COLS), np.nan, np.float32))
    with pytest.raises(DeviceError) as caught:
        device.run(template.place(placed, "layer 3", lambda label: 0))
    assert caught.value.label == "layer 3: x"


def test_seeds_are_put_in_by_label() -> None:
    device = EmulatorDevice(capacity_bytes=1 << 20)
    template = make_template(device, Rounding.STOCHASTIC)
    placed = buffers(device, template, 64)
    asked = []

    def seed(label: str) -> int:
        asked.append(label)
        return 0xDEADBEEF

    code = template.place(placed, "layer", seed).code
    op = decode(code[:INSTRUCTION_BYTES])
    assert isinstance(op, Quantize)
    assert (op.seed, asked) == (0xDEADBEEF, ["x"])
    assert decode(template.place(placed, "layer", lambda label: 1).code[:INSTRUCTION_BYTES]).seed == 1  # type: ignore


def test_a_space_has_no_bytes() -> None:
    space = Sketch(EmulatorDevice(capacity_bytes=1 << 16).config).space("work")
    matrix = space.matrix(2, 2, ElementType.INT8)
    with pytest.raises(RuntimeError, match="space 'work' has no bytes"):
        matrix.write(np.zeros((2, 2), np.int8))
    with pytest.raises(RuntimeError, match="space 'work' has no bytes"):
        matrix.read()


def test_an_empty_program_is_known_as_such() -> None:
    sketch = Sketch(EmulatorDevice(capacity_bytes=1 << 16).config)
    sketch.space("work").matrix(2, 2, ElementType.INT8)
    assert sketch.finish().empty
