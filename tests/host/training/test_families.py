"""Each family on a tiny random model: it trains, stops, goes on with the same bits, and plain diffusers loads what it leaves."""

from __future__ import annotations

import copy
import inspect
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file
from systolora.errors import UserError
from systolora.models.family import Shown
from systolora.models.pipeline import check_fit, load_parts
from systolora.training.adapter import ADAPTER_FILE
from systolora.training.batches import Batch, draw_batch
from systolora.training.flow import FlowObjective
from systolora.training.interrupts import Stopped
from systolora.training.reports import StepReport
from systolora.training.settings import TrainSettings
from systolora.training.trainer import Trainer, train

from ..models.tiny_families import MAKERS, SIDE, make_family

STEPS = 4
MAIN = ("sdxl", "pixart-alpha", "sd3", "flux-dev")
"""One of each family."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Pipeline folders by family, each made once."""
    place = tmp_path_factory.mktemp("families")

    class Made(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            self[name] = make_family(name, place / name / "model")
            return self[name]

    yield Made()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number, caption in enumerate(("a red heart", "a blue star", "a red star")):
        Image.fromarray(random.integers(0, 256, (9 + number, 10, 3), np.uint8)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption)
    return folder


def settings_for(model: Path, data: Path, output: Path) -> TrainSettings:
    return TrainSettings(
        model=str(model),
        data=str(data),
        output=str(output),
        steps=STEPS,
        learning_rate=2e-2,
        resolution=SIDE,
        targets="kv" if "sdxl" in str(model) else "attention",
        caption_dropout=0.3,
        random_flip=True,
        rounding="stochastic",
        checkpoint_every=500,
    )


def adapter_of(settings: TrainSettings) -> dict[str, torch.Tensor]:
    return load_file(Path(settings.output) / ADAPTER_FILE)


def plain_pipeline(folder: Path) -> Any:
    absent = {} if "without-t5" not in str(folder) else {"text_encoder_3": None, "tokenizer_3": None}
    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Any, **options: Any) -> np.ndarray:
    if "use_resolution_binning" in inspect.signature(pipeline.__call__).parameters:
        options["use_resolution_binning"] = False
    return pipeline(
        "a red heart",
        num_inference_steps=2,
        height=SIDE,
        width=SIDE,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **options,
    ).images


@pytest.mark.parametrize("name", MAIN)
def test_a_stopped_run_goes_on_with_the_same_bits_and_plain_diffusers_loads_the_adapter(
    name: str, folders: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    settings = settings_for(folders[name], pictures, tmp_path / "stopped")
    whole = replace(settings, output=str(tmp_path / "whole"))
    result = train(whole)
    assert "offloaded to emulator" in result.offload_report and all(np.isfinite(result.losses))

    def stop(report: StepReport) -> None:
        if report.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped, match="after step 2 of 4; go on with --resume"):
        train(settings, stop)
    with pytest.warns(UserWarning, match="going on after step 2 of 4"):
        again = train(replace(settings, resume=True))
    assert again.losses == result.losses
    expected = adapter_of(whole)
    assert expected.keys() == adapter_of(settings).keys()
    assert all(torch.equal(value, expected[key]) for key, value in adapter_of(settings).items())

    pipeline = plain_pipeline(folders[name])
    before = generate(pipeline)
    if name.startswith("pixart"):  # diffusers has no loader for it: its documentation uses peft's
        from peft import PeftModel

        pipeline.transformer = PeftModel.from_pretrained(pipeline.transformer, str(Path(settings.output) / "peft"))
    else:
        pipeline.load_lora_weights(settings.output, weight_name=ADAPTER_FILE)
    after = generate(pipeline)
    assert np.isfinite(after).all() and np.abs(after - before).max() > 1e-3


@pytest.mark.parametrize("name", MAIN)
def test_the_loaded_adapter_is_the_model_that_was_trained(
    name: str, folders: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    settings = replace(
        settings_for(folders[name], pictures, tmp_path / "run"), precision="float32", rslora=True, rank=3
    )
    trainer = Trainer(settings)
    trainer.run()
    pipeline = plain_pipeline(folders[name])
    part = trainer.parts.family.layout.trained
    if name.startswith("pixart"):
        from peft import PeftModel

        pipeline.transformer = PeftModel.from_pretrained(
            pipeline.transformer, f"{settings.output}/peft"
        ).base_model.model
    else:
        pipeline.load_lora_weights(settings.output, weight_name=ADAPTER_FILE)
    batch = draw_batch(trainer.data, settings, trainer.objective.draw_times, 0, 0)
    with torch.no_grad():
        losses = [trainer.objective.loss(model.eval(), batch) for model in (trainer.unet, getattr(pipeline, part))]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in MAIN])
def test_the_other_forms_of_a_family_train(name: str, folders: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    settings = replace(settings_for(folders[name], pictures, tmp_path / "run"), steps=1, precision="float32")
    assert np.isfinite(train(settings).losses).all()


def calls_of(model: Any, run: Any) -> dict[str, Any]:
    """The arguments of the model's first call in `run`, by name, nested ones flat."""
    seen: list[dict[str, Any]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments)

    hook = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            run()
    finally:
        hook.remove()
    first = {key: value for key, value in seen[0].items() if isinstance(value, torch.Tensor)}
    return first | (seen[0].get("added_cond_kwargs") or {})


@pytest.mark.parametrize("name", MAKERS)
def test_training_tells_the_model_what_the_pipeline_tells_it(name: str, folders: dict[str, Path]) -> None:
    parts = load_parts(folders[name])
    pipeline, family = plain_pipeline(folders[name]), parts.family
    model = getattr(pipeline, family.layout.trained)
    guidance = {"guidance_scale": 2.5} if name.startswith("flux") else {"guidance_scale": 1.0}
    theirs = calls_of(model, lambda: generate(pipeline, **guidance))
    noisy = theirs.get("sample", theirs.get("hidden_states"))
    if name.startswith("flux"):
        noisy = pipeline._unpack_latents(noisy, SIDE // 2, SIDE // 2, 1)
    rows = parts.encode(["a red heart"]) | family.added(parts.unet, [Shown((SIDE, SIDE), (SIDE, SIDE))], 2.5)
    scale = 1000 if name.startswith("flux") else 1
    time = theirs["timestep"].reshape(-1).expand(len(noisy)) * scale
    ours = calls_of(parts.unet, lambda: family.predict(parts.unet, noisy, time, rows))
    assert {key for key, value in ours.items() if value is not None} == {
        key for key, value in theirs.items() if value is not None
    }
    for key, value in theirs.items():
        if value is not None and key != "timestep":
            torch.testing.assert_close(ours[key].float(), value.float(), msg=key)
    torch.testing.assert_close(ours["timestep"].float(), theirs["timestep"].float().reshape(-1))


def test_sdxl_is_told_the_size_and_the_crop_of_each_picture_and_zeros_for_no_caption(
    folders: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    parts = load_parts(folders["sdxl"])
    rows = parts.family.added(parts.unet, [Shown((20, 30), (8, 8)), Shown((30, 20), (8, 8))], 0.0)
    assert rows["time_ids"].tolist() == [[30, 20, 2, 0, 8, 8], [20, 30, 0, 2, 8, 8]]
    encoded = parts.encode(["a red heart", ""])
    assert encoded["text"][0].any() and encoded["pooled"][0].any()
    assert not encoded["text"][1].any() and not encoded["pooled"][1].any()
    settings = replace(settings_for(folders["sdxl"], pictures, tmp_path), caption_dropout=1.0, precision="float32")
    trainer = Trainer(settings)
    dropped = draw_batch(trainer.data, settings, trainer.objective.draw_times, 0, 0)
    trainer.close()
    assert not dropped.text.any() and not dropped.told["pooled"].any() and dropped.told["time_ids"].any()


def flow_batch(places: list[int]) -> Batch:
    torch.manual_seed(0)
    shape = (len(places), 4, 4, 4)
    return Batch(torch.randn(shape), torch.randn(shape), torch.tensor(places), torch.randn(len(places), 3, 5))


@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_a_model_that_knows_the_velocity_has_no_flow_matching_loss(weighting: str) -> None:
    noise = FlowMatchEulerDiscreteScheduler(shift=3.0)
    given = flow_batch([0, 400, 999])
    seen: dict[str, torch.Tensor] = {}

    def perfect(model: Any, noisy: torch.Tensor, times: torch.Tensor, rows: Any) -> torch.Tensor:
        seen.update(noisy=noisy, times=times)
        return given.noise - given.latents + (model is not None)

    objective = FlowObjective(noise, perfect, weighting=weighting)
    assert float(objective.loss(None, given)) == 0
    expected = {"none": 1.0, "sigma_sqrt": float((noise.sigmas[[0, 400, 999]] ** -2).mean())}
    if weighting in expected:
        assert float(objective.loss(1, given)) == pytest.approx(expected[weighting], rel=1e-4)
    torch.testing.assert_close(seen["noisy"][0], given.noise[0])  # place 0 is all noise
    torch.testing.assert_close(seen["times"], noise.sigmas[[0, 400, 999]] * 1000)
    # What the scheduler itself makes of latents at these times.
    torch.testing.assert_close(seen["noisy"], noise.scale_noise(given.latents, seen["times"], given.noise))


def test_logit_normal_times_crowd_in_the_middle_and_all_densities_stay_in_the_schedule() -> None:
    shares = {}
    for density in ("logit_normal", "uniform", "mode"):
        objective = FlowObjective(FlowMatchEulerDiscreteScheduler(), lambda *_: None, density)
        times = objective.draw_times(4000, torch.Generator().manual_seed(0))
        assert times.min() >= 0 and times.max() <= 999
        shares[density] = float(((times > 250) & (times < 750)).float().mean())
    assert shares["uniform"] == pytest.approx(0.5, abs=0.03)
    assert shares["logit_normal"] == pytest.approx(0.728, abs=0.03)  # P(|z| < ln 3)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("sd3", {"snr_gamma": 5.0}, "--snr-gamma 5: Stable Diffusion 3 and 3.5 is trained by flow matching"),
        ("sdxl", {"flow_density": "mode"}, "--flow-density mode: it is for models that are trained by flow matching"),
        ("sd3", {"resolution": 6}, "--resolution 6: the model takes multiples of 4 up to 32"),
        ("sd3", {"resolution": 64}, "--resolution 64: the model takes multiples of 4 up to 32"),
        ("flux-dev", {"adapt": "*.nothing"}, "no Linear or convolution of the model, a FluxTransformer2DModel"),
    ],
)
def test_what_a_family_does_not_have_is_one_line(
    name: str, changes: dict[str, Any], message: str, folders: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        Trainer(replace(settings_for(folders[name], pictures, tmp_path / "run"), **changes))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("sd3", DDPMScheduler, "is a DDPMScheduler; Stable Diffusion 3 and 3.5 is trained with a FlowMatchEuler"),
        ("sdxl", FlowMatchEulerDiscreteScheduler, "which has no noise schedule of a diffusion model"),
    ],
)
def test_a_scheduler_of_another_kind_is_refused_by_name(name: str, kind: Any, message: str, tmp_path: Path) -> None:
    folder = make_family(name, tmp_path / "model")
    index = json.loads((folder / "model_index.json").read_text())
    kind().save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", kind.__name__]}))
    with pytest.raises(UserError, match=message):
        load_parts(folder)


@pytest.mark.parametrize(
    ("name", "encoder", "setting"),
    [
        ("sdxl", "text_encoder_2", "projection_dim"),
        ("sd3", "text_encoder", "projection_dim"),
        ("flux-dev", "text_encoder", "hidden_size"),
    ],
)
def test_text_encoders_of_another_model_are_refused_by_the_width_of_pooled_text(
    name: str, encoder: str, setting: str, folders: dict[str, Path]
) -> None:
    parts = load_parts(folders[name])
    components = dict(parts.pipe.components)
    check_fit("--model x:", parts.family.layout, components)
    config = copy.deepcopy(components[encoder].config)
    setattr(config, setting, 5)
    components[encoder] = SimpleNamespace(config=config)
    with pytest.raises(UserError, match="of different models"):
        check_fit("--model x:", parts.family.layout, components)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-schnell"])
def test_guidance_is_refused_by_models_that_are_told_none(
    name: str, folders: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    settings = replace(settings_for(folders[name], pictures, tmp_path / "run"), guidance=2.0)
    with pytest.raises(UserError, match=r"--guidance 2: it is for distilled models .* is not; leave it out"):
        train(settings)
