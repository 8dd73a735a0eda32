"""What the cost model says of a training run's step on its board, for the run's page."""

from __future__ import annotations

from systolora.cost.run import run_simulate
from systolora.cost.settings import SimulateSettings
from systolora.errors import UserError
from systolora.hls.config import ConfigError
from systolora.training.settings import TrainSettings


def forecast(settings: TrainSettings, resolution: int) -> list[tuple[str, str]]:
    """Name and value of each figure; one that says why there are none, for a run that the cost model does not know.

    Args:
        resolution: pixels of the square that pictures are cropped to.
    """
    if settings.method != "lora" or settings.precision != "int8":
        return []
    asked = SimulateSettings(
        workload=settings.model,
        targets=settings.targets,
        adapt=settings.adapt,
        attention_products=settings.attention_products,
        rank=settings.rank,
        batch=settings.batch,
        resolution=resolution,
        board=settings.board or settings.emulated_board,
        result=settings.transfer_type,
    )
    try:
        simulation = run_simulate(asked)
    except (UserError, ConfigError) as error:
        return [("not predicted", str(error))]
    times, config = settings.accumulation, simulation.machine.config
    step, wall = times * simulation.step_seconds(), simulation.wall_seconds()
    figures = [
        ("array", f"{asked.board or f'{config.rows} x {config.cols}'}, {config.clock_mhz:g} MHz"),
        ("a step on the accelerator", f"{step:.4g} s"),
    ]
    if wall is not None:
        host = simulation.host.rates.name if simulation.host else ""
        figures.append(("with the board's processor, one after the other", f"{times * wall:.4g} s ({host})"))
        whole = settings.steps * times * wall
        figures.append((f"all {settings.steps} steps", f"{whole / 3600:.3g} h" if whole >= 3600 else f"{whole:.3g} s"))
    return figures
