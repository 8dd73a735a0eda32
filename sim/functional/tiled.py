"""A GEMM executed step by step, as the controller does it: tiles in on-chip memories, blocks of the array, epilogues.

The memories have the layout of docs/architecture.md, so what does not fit or does not line up on the hardware goes wrong
here as well. Slow on purpose; `sim/functional/whole.py` computes the same bits at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from systolora.hls.check import round_up
from systolora.hls.config import ArrayConfig
from systolora.hls.isa import Dataflow, Gemm, Quantize

from . import operands
from .counts import TileStep, ceil_div, tile_steps
from .memory import DeviceMemory
from .reference import Int8, Int32, epilogue
from .whole import Executor, NumpyExecutor


class TiledExecutor(Executor):
    """The on-chip memories and the array of one accelerator; they keep their contents between instructions."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self._quantizer = NumpyExecutor(config)
        self._input = np.zeros((2, config.input_depth, config.rows), np.int8)
        self._weight = np.zeros((2, config.weight_depth, config.cols), np.int8)
        self._output = np.zeros((config.output_depth, config.cols), np.int32)
        self._input_half = 0
        self._weight_half = 0

    def run_gemm(self, memory: DeviceMemory, op: Gemm, data: bytes) -> None:
        """See `Executor.run_gemm`."""
        b = operands.operand_b(memory, op, self.config.bus_bytes)
        for step in tile_steps(op):
            if step.load_a:
                self._input_half ^= 1
                self._load_a(op.dataflow, operands.operand_a(memory, op, step.m0, step.m1)[:, step.k0 : step.k1])
            if step.load_b:
                self._weight_half ^= 1
                self._load_columns(self._weight[self._weight_half], b[step.k0 : step.k1, step.n0 : step.n1])
            self._run_array(op.dataflow, step)
            if step.last_k:
                self._store(memory, op, step)

    def run_quantize(self, memory: DeviceMemory, op: Quantize, data: bytes) -> None:
        """See `Executor.run_quantize`. The controller takes rows one after the other, so nothing is tiled."""
        self._quantizer.run_quantize(memory, op, data)

    def _load_a(self, dataflow: Dataflow, tile: Int8) -> None:
        words = self._input[self._input_half]
        if dataflow == Dataflow.WEIGHT_STATIONARY:
            self._load_columns(words, tile)
            return
        band, depth = self.config.band_rows, round_up(tile.shape[1], self.config.band_rows)
        for m, row in enumerate(tile):
            block, lane = divmod(m, self.config.stationary_rows)
            lane, turn = divmod(lane, band)
            place = self._place(words, block * depth, depth).reshape(depth // band, band, -1)
            for k in range(0, len(row), band):
                part = row[k : k + band]
                place[k // band, turn, lane * band : lane * band + len(part)] = part

    def _load_columns(self, words: Int8, tile: Int8) -> None:
        """Block i of `lanes` columns goes to words i * length .. ; lanes beyond the tile's edge keep what they held."""
        lanes, length = words.shape[1], tile.shape[0]
        for block in range(ceil_div(tile.shape[1], lanes)):
            part = tile[:, block * lanes : (block + 1) * lanes]
            self._place(words, block * length, length)[:, : part.shape[1]] = part

    def _run_array(self, dataflow: Dataflow, step: TileStep) -> None:
        tile_n = step.n1 - step.n0
        for n_block in range(ceil_div(tile_n, self.config.cols)):
            if dataflow == Dataflow.WEIGHT_STATIONARY:
                self._weight_stationary(step, n_block)
            else:
                self._output_stationary(step, n_block)

    def _weight_stationary(self, step: TileStep, n_block: int) -> None:
        tile_m, tile_k = step.m1 - step.m0, step.k1 - step.k0
        rows = self.config.rows
        sums = self._place(self._output, n_block * tile_m, tile_m)
        for k_block in range(ceil_div(tile_k, rows)):
            depth = min(rows, tile_k - k_block * rows)
            activations = self._place(self._input[self._input_half], k_block * tile_m, tile_m)
            weights = self._place(self._weight[self._weight_half], n_block * tile_k + k_block * rows, depth)
            product = _product(activations[:, :depth], weights)
            if step.first_k and k_block == 0:
                sums[:] = product
            else:
                sums += product

    def _output_stationary(self, step: TileStep, n_block: int) -> None:
        tile_m, tile_k = step.m1 - step.m0, step.k1 - step.k0
        rows, band = self.config.stationary_rows, self.config.band_rows
        depth = round_up(tile_k, band)
        weights = np.zeros((depth, self.config.cols), np.int8)
        weights[:tile_k] = self._place(self._weight[self._weight_half], n_block * tile_k, tile_k)
        for m_block in range(ceil_div(tile_m, rows)):
            height = min(rows, tile_m - m_block * rows)
            words = self._place(self._input[self._input_half], m_block * depth, depth)
            # word (chunk of k, row in band), lane (band, k in chunk) -> row of C (band, row in band), k
            image = words[:, :rows].reshape(depth // band, band, rows // band, band)
            activations = image.transpose(2, 1, 0, 3).reshape(rows, depth)
            product = _product(activations, weights)[:height]
            sums = self._place(self._output, n_block * tile_m + m_block * rows, height)
            if step.first_k:
                sums[:] = product
            else:
                sums += product

    def _store(self, memory: DeviceMemory, op: Gemm, step: TileStep) -> None:
        tile_m, tile_n = step.m1 - step.m0, step.n1 - step.n0
        blocks = ceil_div(tile_n, self.config.cols)
        words = self._place(self._output, 0, blocks * tile_m).reshape(blocks, tile_m, self.config.cols)
        sums = words.transpose(1, 0, 2).reshape(tile_m, -1)[:, :tile_n]
        old = operands.operand_c(memory, op)[step.m0 : step.m1, step.n0 : step.n1] if op.accumulate else None
        values = epilogue(
            np.ascontiguousarray(sums),
            op.result,
            scale_a=operands.scales(memory, op.scale_a, op.scale_a_address, step.m0, step.m1),
            scale_b=operands.scales(memory, op.scale_b, op.scale_b_address, step.n0, step.n1),
            alpha=op.alpha,
            bias=operands.bias(memory, op, step.n0, step.n1),
            c=None if old is None else np.ascontiguousarray(old),
            scales_swapped=op.scales_swapped,
        )
        operands.write_result(memory, op, values, self.config.bus_bytes, step.m0, step.n0)

    @staticmethod
    def _place(words: NDArray, start: int, count: int) -> NDArray:
        if start + count > len(words):
            raise IndexError(f"words {start} to {start + count} of an on-chip memory of {len(words)}")
        return words[start : start + count]


def _product(a: Int8, b: Int8) -> Int32:
    # One block's sums are below 2**53 in magnitude, so float64 is exact.
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int32)
