"""A run that begins with an adapter that exists: the same from whosever names, checked, and recorded for `--resume`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from systolora.adapters.convert import convert_adapter
from systolora.errors import UserError
from systolora.training.settings import TrainSettings, check_settings
from systolora.training.trainer import Trainer

MakeTrainer = Callable[[TrainSettings], Trainer]


def run(trainer: Trainer) -> Path:
    try:
        return trainer.run().adapter
    finally:
        trainer.close()


@pytest.fixture
def started(small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path) -> TrainSettings:
    """Settings of a run that begins with the adapter of another, of rank 2 and alpha 6, in `begin.safetensors`."""
    other = replace(small, rank=2, alpha=6.0, output=str(tmp_path / "other"))
    run(make_trainer(other)).rename(tmp_path / "begin.safetensors")
    return replace(other, output=str(tmp_path / "run"), init_from=str(tmp_path / "begin.safetensors"))


def test_it_begins_with_the_same_values_under_any_names(
    started: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    wanted = load_file(started.init_from)
    convert_adapter(Path(started.init_from), "kohya", tmp_path / "kohya.safetensors")
    convert_adapter(Path(started.init_from), "peft", tmp_path / "peft")
    for index, origin in enumerate((started.init_from, tmp_path / "kohya.safetensors", tmp_path / "peft")):
        settings = replace(started, init_from=str(origin), output=str(tmp_path / f"run-{index}"))
        trainer = make_trainer(settings)
        named = trainer.optimization.named
        assert len(named) == len(wanted)
        for name, value in named.items():
            plain = name.replace(".lora_A.default", ".lora.down").replace(".lora_B.default", ".lora.up")
            assert torch.equal(value, wanted[f"unet.{plain}"]), name
        trainer.close()


def test_a_run_that_goes_on_has_the_same_bits_and_asks_for_the_same_adapter(
    started: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    whole = load_file(run(make_trainer(replace(started, output=str(tmp_path / "whole")))))
    first = replace(started, steps=2)
    run(make_trainer(replace(first, schedule="constant", warmup=0)))
    more = replace(started, schedule="constant", warmup=0, resume=True)
    without = replace(more, init_from="")
    with pytest.raises(UserError, match="run began with an adapter"):
        make_trainer(without)
    moved = tmp_path / "moved.safetensors"
    Path(started.init_from).rename(moved)
    resumed = load_file(run(make_trainer(replace(more, init_from=str(moved)))))
    straight = replace(more, resume=False, init_from=str(moved), output=str(tmp_path / "straight"))
    assert all(torch.equal(resumed[name], value) for name, value in load_file(run(make_trainer(straight))).items())
    assert whole.keys() == resumed.keys()
    tensors = load_file(moved)
    save_file(
        {name: value * 2 for name, value in tensors.items()},
        moved,
        metadata={"lora_adapter_metadata": '{"unet.lora_alpha": 6}'},
    )
    with pytest.raises(UserError, match=r"--init-from is not what the checkpoint was trained on \(changed"):
        make_trainer(replace(more, init_from=str(moved), steps=5))


def test_a_run_without_one_does_not_go_on_with_one(
    small: TrainSettings, started: TrainSettings, make_trainer: MakeTrainer
) -> None:
    plain = replace(started, init_from="")
    run(make_trainer(plain))
    with pytest.raises(UserError, match="did not begin with an adapter"):
        make_trainer(replace(started, resume=True, steps=6))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rank": 4}, "its rank is 2, that of this run 4; give --rank 2"),
        ({"alpha": 0.0}, "its alpha is 6, that of this run 2; give --alpha 6"),
        ({"adapt": "attention"}, "it lacks .* of the .* layers that this run adapts"),
        ({"init_from": "nowhere.safetensors"}, "there is no such file"),
    ],
)
def test_what_does_not_fit_is_told_before_the_first_step(
    started: TrainSettings, make_trainer: MakeTrainer, change: dict[str, object], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        make_trainer(replace(started, **change))


def test_an_adapter_with_other_layers_is_refused(
    started: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    tensors = load_file(started.init_from)
    down = next(name for name in tensors if name.endswith("to_k.lora.down.weight"))
    up, other = down.replace(".down.", ".up."), down.replace("attn2.to_k", "attn1.to_k")
    header = {"lora_adapter_metadata": '{"unet.lora_alpha": 6, "text_encoder.lora_alpha": 6}'}
    extra = {other: tensors[down].clone(), other.replace(".down.", ".up."): tensors[up].clone()}
    cases = (
        ({**tensors, **extra}, "1 of its .* layers are none that this run adapts"),
        ({**tensors, "text_encoder.a.lora_A.weight": torch.ones(2, 3), "text_encoder.a.lora_B.weight": torch.ones(3, 2)}, "it adapts the text_encoder too"),
        ({**tensors, down: torch.ones(2, 3)}, "do not fit this model's layer"),
    )  # fmt: skip
    for index, (changed, text) in enumerate(cases):
        path = tmp_path / f"{index}.safetensors"
        save_file(changed, path, metadata=header)
        with pytest.raises(UserError, match=text):
            make_trainer(replace(started, init_from=str(path)))


def test_integer_methods_begin_with_no_lora(started: TrainSettings) -> None:
    with pytest.raises(UserError, match="--init-from goes with --method lora"):
        check_settings(replace(started, method="intlora-mul", init_from="x"))


def test_an_rslora_adapter_keeps_its_scaling_under_any_names(
    small: TrainSettings, make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Programs that know no rslora get alpha times sqrt(rank), whose ratio to the rank is rslora's scaling."""
    settings = replace(small, rank=3, alpha=6.0, rslora=True, steps=2, output=str(tmp_path / "other"))
    own = run(make_trainer(settings))
    kohya, again = tmp_path / "kohya.safetensors", tmp_path / "again.safetensors"
    convert_adapter(own, "kohya", kohya)
    convert_adapter(kohya, "diffusers", again)
    (alpha,) = {float(value) for name, value in load_file(kohya).items() if name.endswith(".alpha")}
    assert alpha == pytest.approx(6 * 3**0.5, rel=1e-7)
    for index, path in enumerate((own, kohya, again)):
        trainer = make_trainer(replace(settings, init_from=str(path), output=str(tmp_path / f"run-{index}")))
        (scaling,) = {module.scaling["default"] for module in trainer.unet.modules() if hasattr(module, "scaling")}
        assert scaling == pytest.approx(6 / 3**0.5)
        trainer.close()
        with pytest.raises(UserError, match=r"its alpha is 10.3923, that of this run 6; give --alpha 10.39230484"):
            make_trainer(replace(settings, rslora=False, init_from=str(path), output=str(tmp_path / "plain")))
    plain = run(make_trainer(replace(settings, rslora=False, output=str(tmp_path / "lora"))))
    with pytest.raises(UserError, match=r"its alpha is 3.4641, that of this run 6; give --alpha 3.46410"):
        make_trainer(replace(settings, init_from=str(plain), output=str(tmp_path / "stabilized")))
