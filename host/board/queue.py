"""Programs on their way through a board: two in flight, in order, one running while the next one already lies in memory."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from systolora.hls.config import ArrayConfig
from systolora.hls.isa import INSTRUCTION_BYTES
from systolora.hls.registers import Counters, Status
from systolora.programs.check import ProgramRegions
from systolora.sim.functional.device import DeviceError, Program

from .buffers import BoardBuffer, BoardMemory
from .errors import BoardTimeout, describe
from .lane import Lane, Start, make_lane, write_code
from .recovery import recover, timeout_report

if TYPE_CHECKING:
    from .session import Session

IN_FLIGHT = 2


@dataclass
class Job:
    """A program that was submitted."""

    program: Program
    reads: tuple[BoardBuffer, ...]
    writes: tuple[BoardBuffer, ...]
    future: Future[Status] = field(default_factory=Future)


class ProgramQueue:
    """Runs programs one after the other.

    Attributes:
        counters: sum of the counters of all programs that ended.
        retries: programs that were run again after the core hung.
    """

    def __init__(self, config: ArrayConfig, session: Session, memory: BoardMemory, regions: ProgramRegions) -> None:
        self._config, self._session, self._memory, self._regions = config, session, memory, regions
        self._health, self._name = memory.health, memory.health.name
        self.counters = Counters()
        self.retries = 0
        self._room = threading.Semaphore(IN_FLIGHT)
        self._sequence = 0
        self._jobs: asyncio.Queue[tuple[Job, Start] | None] = memory.owner.call(asyncio.Queue)
        self._lanes: deque[Lane] = memory.owner.call(self._make_lanes)
        self._worker = memory.owner.spawn(self._work())

    def _make_lanes(self) -> deque[Lane]:
        return deque(make_lane(self._memory.pool, "queue") for _ in range(IN_FLIGHT))

    def submit(self, job: Job) -> Future[Status]:
        """Queues a program; waits while two are in flight.

        Raises:
            BoardLost: if the board is lost.
            DeviceError: if it is called from a callback of a program while two are in flight.
        """
        owner = self._memory.owner
        if not self._room.acquire(blocking=not owner.is_current):
            raise DeviceError(f"{self._name}: two programs are in flight; submit outside of their callbacks")
        try:
            with self._memory.exclusive():
                self._memory.call(self._prepare, job)
        except BaseException:
            self._room.release()
            raise
        return job.future

    def _prepare(self, job: Job) -> None:
        self._health.require()
        job.future.set_running_or_notify_cancel()
        lane = self._lanes.popleft()
        try:
            self._fit(lane, len(job.program.code))
            write_code(lane, job.program.code)
            for buffer in dict.fromkeys((*job.reads, *job.writes)):
                buffer.hand_over(job.future, buffer in job.writes)
        except BaseException:
            self._lanes.append(lane)
            raise
        start = Start(lane, len(job.program.code) // INSTRUCTION_BYTES, self._memory.pool.span, self._next_sequence())
        self._jobs.put_nowait((job, start))

    def _fit(self, lane: Lane, nbytes: int) -> None:
        if nbytes > lane.code.size:
            bigger = self._memory.pool.take(nbytes, "queue, program")
            self._memory.pool.give(lane.code)
            lane.code = bigger

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        return self._sequence

    async def _work(self) -> None:
        while (queued := await self._jobs.get()) is not None:
            job, start = queued
            outcome: Status | BaseException
            try:
                outcome = await self._run(job, start)
            except DeviceError as error:
                outcome = error
            except Exception as error:
                outcome = self._health.lose(describe(error), error)
            self._lanes.append(start.lane)
            self._room.release()
            if isinstance(outcome, Status):
                job.future.set_result(outcome)
            else:
                job.future.set_exception(outcome)

    async def _run(self, job: Job, start: Start) -> Status:
        self._health.require()
        status = await self._complete(start)
        if status is None:
            status = await self._again(job, start)
        self.counters = self.counters + status.counters
        if status.fingerprint != self._config.fingerprint:
            raise self._health.lose(
                f"the core has fingerprint {status.fingerprint:08x}, the driver {self._config.fingerprint_text}: another "
                "program has loaded another bitstream"
            )
        if status.error:
            raise DeviceError.from_status(self._name, status, job.program.labels)
        return status

    async def _complete(self, start: Start) -> Status | None:
        return await self._session.finish(start) if self._session.begin(start) else None

    async def _again(self, job: Job, start: Start) -> Status:
        """After a program that did not finish: recovers, and runs it a second time if that gives the same result."""
        session, program = self._session, job.program
        for last in (not self._regions.replayable(program.code), True):
            registers = session.core.snapshot()
            report = timeout_report(self._name, program, start, session.timing.program, registers)
            helped = recover(session, self._memory.pool, self._next_sequence())
            if not helped:
                raise self._health.lose(f"{report}; neither a soft reset nor loading the bitstream again helped")
            if last:
                break
            self.retries += 1
            write_code(start.lane, program.code)
            start = replace(start, sequence=self._next_sequence())
            status = await self._complete(start)
            if status is not None:
                return status
        for buffer in job.writes:
            buffer.lose()
        index = registers["error_index"]
        text = f"{report}; {helped} made the board work again, but what the program should have written is lost"
        raise BoardTimeout(text, registers, index, program.labels.get(index, ""))

    def close(self) -> None:
        """Waits for the programs in flight and ends."""
        for _ in range(IN_FLIGHT):
            self._room.acquire()
        self._memory.owner.call(self._jobs.put_nowait, None)
        self._worker.result()
        self._lanes.clear()
