"""One offloaded linear layer from call to call: what changed, what autograd keeps, buffers, errors and the programs."""

from __future__ import annotations

import gc

import pytest
import torch
from systolora.offloading.layer import OffloadedLayer
from systolora.offloading.quantization import QuantizationConfig
from systolora.offloading.session import NonFiniteTensorError
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .problem import Problem, make_layer, relative


def test_after_an_error_the_layer_works_again() -> None:
    problem, layer = Problem(), make_layer()
    expected = problem.offloaded(layer)
    with torch.no_grad():
        good = problem.up[0, 0].item()
        problem.up[0, 0] = float("nan")
        with pytest.raises(NonFiniteTensorError):
            problem.forward(layer)
        problem.up[0, 0] = good
    got = problem.offloaded(layer)
    assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_changed_tensors_are_noticed() -> None:
    """In-place changes, `.data` edits and another tensor all reach the device."""
    problem, layer = Problem(), make_layer()
    problem.forward(layer)

    def same_as_fresh() -> bool:
        return torch.equal(problem.forward(layer), problem.forward(make_layer()))

    with torch.no_grad():
        problem.down.mul_(0.5)
    assert same_as_fresh()
    problem.up.data.add_(0.25)
    assert same_as_fresh()
    problem.weight.data *= 1.5
    assert same_as_fresh()
    problem.weight = problem.weight.clone() + 1
    assert same_as_fresh()
    problem.bias.data.zero_()
    assert same_as_fresh()


def test_two_adapters_in_turn_keep_their_gradients() -> None:
    """The factors in device memory are those of the other adapter when the first one's backward begins."""
    first, second, layer = Problem(seed=0), Problem(seed=1, rank=2), make_layer()
    second.weight = first.weight
    y_first, y_second = first.forward(layer), second.forward(layer)
    got = first.results(y_first)
    expected = first.offloaded(make_layer())
    assert all(torch.equal(got[name], value) for name, value in expected.items())
    again = second.results(y_second)
    assert all(torch.equal(again[name], value) for name, value in second.offloaded(make_layer()).items())


def test_stochastic_rounding_repeats_with_step_and_layer() -> None:
    quantization = QuantizationConfig(activation_rounding="stochastic", gradient_rounding="stochastic", seed=3)
    problem = Problem()

    def at(step: int, index: int) -> dict[str, Tensor]:
        layer = make_layer(quantization, index)
        layer.session.step = step
        return problem.offloaded(layer)

    first, again = at(7, 2), at(7, 2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (at(8, 2), at(7, 3)):
        assert not torch.equal(first["y"], other["y"])
        assert not torch.equal(first["down"], other["down"])
    assert relative(first["down"], problem.in_torch()["down"]) < 0.04


def test_gradient_checkpointing_is_bit_identical_and_keeps_nothing() -> None:
    for reentrant in (False, True):
        problem, layer = Problem(), make_layer()
        expected = problem.offloaded(layer)

        def run(x: Tensor, problem: Problem = problem, layer: OffloadedLayer = layer) -> Tensor:
            return problem.forward(layer)

        y = checkpoint(run, problem.x, use_reentrant=reentrant)
        assert not layer.session.pool._kept
        y.backward(problem.grad_y)
        got = {"y": y.detach(), **{name: leaf.grad for name, leaf in problem.leaves.items()}}
        assert all(torch.equal(got[name], value) for name, value in expected.items()), reentrant


def test_several_micro_batches_alive_at_once() -> None:
    problems, layer = [Problem(seed=seed) for seed in range(3)], make_layer()
    for problem in problems:
        problem.weight = problems[0].weight
        problem.down, problem.up = problems[0].down, problems[0].up
        problem.leaves |= {"down": problem.down, "up": problem.up}
    outputs = [problem.forward(layer) for problem in problems]
    for problem, y in zip(problems, outputs, strict=True):
        got, expected = problem.results(y), problem.offloaded(make_layer())
        assert all(torch.equal(got[name], value) for name, value in expected.items())


def test_retain_graph_and_buffers_that_come_back() -> None:
    problem, layer = Problem(), make_layer()
    y = problem.forward(layer)
    first = torch.autograd.grad(y, [problem.down], problem.grad_y, retain_graph=True)[0]
    assert layer.session.pool._kept
    second = torch.autograd.grad(y, [problem.down], problem.grad_y)[0]
    assert torch.equal(first, second)
    assert not layer.session.pool._kept, "the saved activations go when autograd drops them, though y lives"
    del y
    used = 0
    for _ in range(5):
        problem.offloaded(layer)
        problem.forward(layer)  # a graph that is never used backward
        gc.collect()
        used = used or layer.session.device.bytes_in_use
    assert layer.session.device.bytes_in_use == used


def test_programs_are_the_same_bytes_again() -> None:
    codes: list[bytes] = []
    problem, layer = Problem(), make_layer()
    device = layer.session.device
    run = device.run
    device.run = lambda program: (codes.append(program.code), run(program))[1]  # type: ignore[method-assign]
    problem.offloaded(layer)
    codes.clear()
    problem.offloaded(layer)
    first = list(codes)
    codes.clear()
    problem.offloaded(layer)
    assert codes == first
    assert len(codes) == 2, "one program forward, one backward"


def test_inference_mode() -> None:
    problem, layer = Problem(), make_layer()
    expected = problem.forward(layer).detach()
    with torch.inference_mode():
        problem.weight = problem.weight.clone()
        assert torch.equal(problem.forward(layer), expected)


def test_undone_layers_and_copied_activations_say_so() -> None:
    problem, layer = Problem(), make_layer()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), lambda tensor: tensor):
        y = problem.forward(layer)
    with pytest.raises(RuntimeError, match="save_on_cpu"):
        y.backward(problem.grad_y)
    y = problem.forward(layer)
    layer.session.close()
    with pytest.raises(RuntimeError, match="its offload was undone"):
        y.backward(problem.grad_y)
    with pytest.raises(RuntimeError, match="its offload was undone"):
        problem.forward(layer)
