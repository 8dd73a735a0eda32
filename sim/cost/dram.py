"""Device memory as the accelerator sees it: a shared bandwidth, a latency, bursts, and requests in flight.

Five numbers describe it, and each has one consequence:

* *bandwidth*, shared by all ports: moving b bytes takes at least `b * clock_mhz / (1000 * gbps)` clocks;
* *rate of a port*: a port of the accelerator may be wider than the processor's behind it, which has 16 bytes in each clock of its own: moving
  w bus words takes a port at least `w * bus_bytes / port_bytes` clocks of the array (`ArrayConfig.port_bytes`), reads and writes each;
* *latency*: a transfer begins that many clocks after its first request;
* *burst length*: a row of w bus words is `ceil(w / burst_words)` requests. The processor's side of a Zynq UltraScale+ cuts every
  burst to 16 beats (UG1085, "PL-PS Interface Specifics": the conversion to AXI3 in the AXI FIFO interface), of 16 bytes at most;
* *requests in flight*: a request holds its slot from when it is made until its last word is there, `latency + words` clocks (more on a port
  of a lower rate), so r requests for w words need at least `(r * latency + w) / in_flight` clocks. With in_flight = 1 each row waits for the one before.
  The generated loops hold eight runs open (hls/templates/requests.hpp), and the AXI FIFO interface of a processor port issues eight
  bursts (UG1085, "AXI FIFO interface", issuing capability); scales, bias, instructions and the status block are one request each.

A DDR4 chip moves 64 bytes at a time (burst of 8 on a 64-bit channel), so a row moves a multiple of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray
from systolora.hls.config import ArrayConfig
from systolora.hls.design import REQUESTS_IN_FLIGHT
from systolora.hls.sizes import PORT_BYTES

Ints = NDArray[np.int64]

DDR4_ACCESS_BYTES = 64
PS_BURST_WORDS = 16
PS_BURST_BYTES = PS_BURST_WORDS * PORT_BYTES
READ_LATENCY_NS = 300.0
"""From request to first word, and from the last word of a write to its answer. An assumption: never measured for this design, and no
published figure of a processor port under load was found. Eight bursts of 16 words hide 128 clocks a port, so it hardly shows."""


@dataclass(frozen=True)
class DramModel:
    """Device memory behind the ports of one accelerator.

    Attributes:
        gbps: bandwidth that all ports share, in 10**9 bytes a second.
        clock_mhz: clock in which times are given. bus_bytes: width of a port.
        latency: clocks from a request to its first word.
        burst_words, in_flight, access_bytes: see the module's text.
        port_bytes: bytes that a port moves in one clock; infinite if it takes whatever the accelerator's port does.
    """

    gbps: float
    clock_mhz: float
    bus_bytes: int
    latency: int
    burst_words: int = PS_BURST_WORDS
    in_flight: int = REQUESTS_IN_FLIGHT
    access_bytes: int = DDR4_ACCESS_BYTES
    port_bytes: float = inf

    @classmethod
    def of(
        cls, config: ArrayConfig, latency_ns: float = READ_LATENCY_NS, in_flight: int = REQUESTS_IN_FLIGHT
    ) -> DramModel:
        """The memory of a configuration."""
        latency = round(latency_ns * config.clock_mhz / 1000)
        memory = cls(config.dram_gbps, config.clock_mhz, config.bus_bytes, latency, in_flight=in_flight)
        if not config.port_mhz:
            return memory
        burst = min(PS_BURST_WORDS, PS_BURST_BYTES // config.bus_bytes)
        return replace(memory, burst_words=burst, port_bytes=config.port_bytes)

    @property
    def bytes_per_clock(self) -> float:
        """Bytes that device memory moves in one clock at best."""
        return 1000 * self.gbps / self.clock_mhz

    def shared_clocks(self, moved: Ints) -> Ints:
        """Clocks in which device memory moves that many bytes, whatever the ports are."""
        return np.ceil(moved / self.bytes_per_clock).astype(np.int64)

    def moved_bytes(self, rows: Ints, row_words: Ints) -> Ints:
        """Bytes that device memory moves for `rows` rows of `row_words` bus words."""
        row_bytes = row_words * self.bus_bytes
        return rows * (-(-row_bytes // self.access_bytes) * self.access_bytes)

    def requests(self, rows: Ints, row_words: Ints) -> Ints:
        """Bursts in which these rows are read or written."""
        return rows * -(-row_words // self.burst_words)

    def request_clocks(self, requests: Ints, words: Ints) -> Ints:
        """Clocks below which the requests in flight do not let a transfer come; its first latency is not among them."""
        held = np.maximum(words, self.port_clocks(words))
        return -(-(requests * self.latency + held) // self.in_flight)

    def port_clocks(self, words: Ints) -> Ints:
        """Clocks in which a port moves these bus words at its rate, in one direction."""
        return np.ceil(words * self.bus_bytes / self.port_bytes).astype(np.int64)

    def transfer_clocks(self, requests: Ints, words: Ints) -> Ints:
        """Clocks below which a port does not let a transfer come, by its rate and by its requests in flight."""
        return np.maximum(self.port_clocks(words), self.request_clocks(requests, words))
