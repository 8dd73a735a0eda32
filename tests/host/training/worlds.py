"""A program: the same small runs in one process and in two, forked after the imports, which take longer than the runs.

`python worlds.py ORDER` with JSON of what ("gradients", "runs"), folder, pictures, four free ports; what came out lies in `FOLDER/{world}-{rank}.pt`.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from systolora.assets import pipeline_folder
from systolora.errors import UserError
from systolora.models.pipeline import PipelineParts, load_parts
from systolora.offloading.quantization import GEMM_KINDS, QuantizationConfig
from systolora.training.batches import Batch
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer

BY_ROWS = frozenset(GEMM_KINDS) - {"grad_up", "grad_down"}
"""The GEMMs whose scales belong to single tokens or to weights, whatever else is in the batch."""

GRADIENTS: dict[str, dict[str, Any]] = {
    "float32": {"precision": "float32", "batch": 4, "targets": "attention"},
    "float32 accumulated": {"precision": "float32", "batch": 2, "accumulation": 2, "targets": "attention"},
    "int8": {"batch": 4},
    "int8 accumulated": {"batch": 2, "accumulation": 2},
    "int8 everywhere": {"batch": 4, "targets": "all"},
    "int8 by rows": {"batch": 4, "by_rows": True},
}
RUN: dict[str, Any] = {"batch": 2, "steps": 6, "learning_rate": 2e-3, "schedule": "cosine", "warmup": 2}


class World:
    """One process's share of all runs."""

    def __init__(self, folder: Path, pictures: Path, parts: PipelineParts, world: int, rank: int) -> None:
        self.folder, self.parts, self.world, self.rank = folder, parts, world, rank
        self.common = TrainSettings(model=str(pipeline_folder()), data=str(pictures), threads=1, checkpoint_every=0)

    def trainer(self, name: str, **changes: Any) -> Trainer:
        settings = replace(self.common, output=str(self.folder / f"{self.world} {name}"), **changes)
        return Trainer(settings, replace(self.parts, unet=copy.deepcopy(self.parts.unet)))

    def gradients(self, name: str, by_rows: bool = False, **changes: Any) -> dict[str, Any]:
        """Loss, gradients and parts of the batch of one step, from factors that are not zero."""
        trainer = self.trainer(name, **changes)
        if by_rows:
            handle = trainer.handle
            handle._session.quantization = QuantizationConfig(int8_kinds=BY_ROWS)
        torch.manual_seed(5)
        for key, parameter in trainer.optimization.named.items():
            if "lora_B" in key:
                parameter.data.normal_(std=0.05)
        seen: list[Batch] = []
        whole = trainer.objective.loss
        trainer.objective.loss = lambda unet, batch: (seen.append(batch), whole(unet, batch))[1]  # type: ignore[method-assign]
        loss = trainer._gradients(0)
        gradients = torch.cat([parameter.grad.flatten() for parameter in trainer.parameters])  # type: ignore[union-attr]
        trainer.close()
        return {"loss": loss, "gradients": gradients, "noise": torch.cat([batch.noise for batch in seen])}

    def run(self, name: str, **changes: Any) -> dict[str, Any]:
        trainer = self.trainer(name, **RUN | changes)
        rates: list[float] = []
        try:
            result = trainer.run(lambda report: rates.append(report.learning_rate))
            weights = torch.cat([parameter.detach().flatten() for parameter in trainer.parameters])
            return {"losses": result.losses, "rates": rates, "weights": weights, "notes": trainer.notes}
        except UserError as error:
            return {"error": f"{type(error).__name__}: {error}"}
        finally:
            trainer.close()

    def broken(self) -> dict[str, Any]:
        """The last process fails in its second step, and goes on living until the first one has noticed."""
        trainer, noticed = self.trainer("broken", **RUN, precision="float32"), self.folder / "noticed"
        whole, calls = trainer.objective.loss, []

        def loss(unet: Any, batch: Batch) -> torch.Tensor:
            calls.append(batch)
            if len(calls) == 2 and self.rank == self.world - 1:
                raise UserError("the board of this process was unplugged")
            return whole(unet, batch)

        trainer.objective.loss = loss  # type: ignore[method-assign]
        try:
            trainer.run()
        except UserError as error:
            if self.rank == 0:
                noticed.touch()
            while not noticed.exists():
                time.sleep(0.05)
            return {"error": str(error), "steps": len(trainer.losses)}
        finally:
            trainer.close()
        raise AssertionError("it went on")

    def all_gradients(self) -> dict[str, Any]:
        return {name: self.gradients(name, **changes) for name, changes in GRADIENTS.items()}

    def all_runs(self) -> dict[str, Any]:
        results = {
            "curve float32": self.run("curve float32", precision="float32", checkpoint_every=2, keep_checkpoints=9),
            "curve int8": self.run("curve int8"),
            "too fast": self.run("too fast", precision="float32", learning_rate=1000.0, max_grad_norm=0.0),
        }
        return results | ({"broken": self.broken()} if self.world == 2 else {})


def fork(world: int, port: int, work: Any) -> list[int]:
    """Runs `work(rank)` in so many new processes; their exit codes."""
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
            try:
                work(rank)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def main() -> None:
    what, folder, pictures, ports = json.loads(sys.argv[1])
    parts = load_parts(pipeline_folder())

    def everything(world: int, rank: int) -> None:
        mine = World(Path(folder), Path(pictures), parts, world, rank)
        results = mine.all_gradients() if what == "gradients" else mine.all_runs()
        torch.save(results, mine.folder / f"{world}-{rank}.pt")

    def goes_on(world: int, rank: int) -> None:
        """From the fourth step of two processes."""
        mine = World(Path(folder), Path(pictures), parts, world, rank)
        result = mine.run(f"from 4 by {world}", precision="float32", checkpoint_every=2, resume=True)
        torch.save(result, mine.folder / f"resumed-{world}-{rank}.pt")

    for world in (1, 2):
        assert fork(world, ports[world - 1], lambda rank, world=world: everything(world, rank)) == [0] * world
    for world in (1, 2) if what == "runs" else ():
        checkpoints = Path(folder) / f"{world} from 4 by {world}" / "checkpoints"
        checkpoints.mkdir(parents=True)
        name = "step-0000004.safetensors"
        (checkpoints / name).write_bytes((Path(folder) / "2 curve float32/checkpoints" / name).read_bytes())
        assert fork(world, ports[world + 1], lambda rank, world=world: goes_on(world, rank)) == [0] * world


if __name__ == "__main__":
    main()
