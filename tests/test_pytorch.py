"""A network in memory behind the protocol of its exports."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from exporters.errors import RuntimeMissing
from exporters.pytorch import TorchRunner

SHAPE = (3, 8, 8)


def runner(network, **options):
    return TorchRunner(network, input_shape=SHAPE, classes=4, **options)


def test_a_runner_gives_the_logits_of_the_network_in_inference_mode(tiny, images):
    network = tiny().train()
    logits = runner(network)(images(5).numpy())
    with torch.no_grad():
        expected = tiny()(images(5)).numpy()
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_the_network_is_not_touched_and_later_training_does_not_reach_the_runner(tiny, images):
    network = tiny().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    made = runner(network, precision="bf16")
    first = made(images(5).numpy())
    assert network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    with torch.no_grad():
        network.head.weight.zero_()
    np.testing.assert_array_equal(made(images(5).numpy()), first)


@pytest.mark.parametrize(("precision", "error"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_a_lower_precision_is_really_used_and_returns_float32(tiny, images, precision, error):
    exact, lower = runner(tiny()), runner(tiny(), precision=precision)
    difference = np.abs(exact(images(8).numpy()) - lower(images(8).numpy()))
    assert lower(images(8).numpy()).dtype == np.float32
    assert 0 < difference.max() < error
    assert {parameter.dtype for parameter in lower.network.parameters()} == {
        {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    }


def test_the_memory_layout_changes_no_logits(tiny, images):
    ahead = runner(tiny(), channels_last=True)
    plain = runner(tiny(), channels_last=False)
    np.testing.assert_allclose(ahead(images(3).numpy()), plain(images(3).numpy()), atol=1e-6)
    assert ahead.network.body[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert plain.network.body[3].weight.is_contiguous()


def test_a_prepared_inference_gives_the_logits_of_a_call(tiny, images):
    made = runner(tiny())
    infer = made.prepare(images(5).numpy())
    np.testing.assert_array_equal(infer().numpy(), made(images(5).numpy()))
    assert infer().is_inference()


class Threads(nn.Module):
    """StoredPredictions with the number of threads it was run with."""

    def forward(self, images):
        return torch.full((len(images), 4), torch.get_num_threads())


def test_threads_hold_for_the_calls_of_a_runner_only(images):
    before = torch.get_num_threads()
    made = runner(Threads(), threads=before + 1)
    assert made(images(1).numpy())[0, 0] == before + 1
    assert made.prepare(images(1).numpy())()[0, 0] == before + 1
    assert torch.get_num_threads() == before
    assert runner(Threads())(images(1).numpy())[0, 0] == before


def test_threads_are_put_back_after_a_failure(images):
    class Broken(nn.Module):
        def forward(self, _images):
            raise RuntimeError("broken")

    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="broken"):
        runner(Broken(), threads=before + 1)(images(1).numpy())
    assert torch.get_num_threads() == before


def test_an_exported_program_is_run_as_it_is(tiny, images):
    program = torch.export.export(tiny(), (images(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    with torch.no_grad():
        expected = tiny()(images(5)).numpy()
    np.testing.assert_allclose(runner(program.module())(images(5).numpy()), expected, atol=1e-6)


def test_a_runner_says_what_it_is(tiny, tmp_path):
    made = runner(tiny(), precision="bf16", threads=1, path=tmp_path / "x.safetensors", metadata={"arch": "tiny"})
    assert (made.format, made.provider, made.precision, made.threads) == ("pytorch", "cpu", "bf16", 1)
    assert (made.path, made.metadata) == (tmp_path / "x.safetensors", {"arch": "tiny"})
    assert (made.pixels, made.output, made.cuda_graph) == ("float32", "logits", False)


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 1, 8, 8), (3, 8, 8)])
def test_images_of_another_shape_are_refused(tiny, shape):
    with pytest.raises(ValueError, match="expected float32 images"):
        runner(tiny())(np.zeros(shape, np.float32))


def test_an_unknown_precision_is_refused(tiny):
    with pytest.raises(RuntimeMissing, match="'int8'") as refused:
        runner(tiny(), precision="int8")
    assert refused.value.hint == "known: fp32, bf16, fp16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(tiny):
    with pytest.raises(RuntimeMissing, match="no CUDA device") as refused:
        runner(tiny(), device="cuda")
    assert refused.value.exit_code == 3


def test_a_cuda_graph_is_refused_on_the_cpu(tiny):
    with pytest.raises(RuntimeMissing, match="records CUDA graphs on a GPU, not on cpu") as refused:
        runner(tiny(), cuda_graph=True)
    assert (refused.value.exit_code, refused.value.hint) == (3, "run on cuda, or without a CUDA graph")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_recorded_inference_gives_the_logits_of_a_call(tiny, images, precision):
    made = runner(tiny(), device="cuda", precision=precision, cuda_graph=True)
    recorded = {count: made.prepare(images(count).numpy()) for count in (3, 5)}
    for count, infer in recorded.items():
        for _ in range(3):
            np.testing.assert_allclose(infer().cpu().numpy(), made(images(count).numpy()), atol=1e-5)


class Cuda:
    """Stands in for what records on a GPU, since there is none: notes what is done in which order."""

    def __init__(self, patch, network):
        self.done: list[str] = []
        self.addresses: set[int] = set()
        network.register_forward_pre_hook(self.infer)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device", lambda _device: nullcontext())
        patch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        patch.setattr(torch.cuda, "current_stream", lambda: self.stream("current"))
        patch.setattr(torch.cuda, "Stream", lambda: self.stream("side"))
        patch.setattr(torch.cuda, "stream", lambda stream: self.within(stream.name))
        patch.setattr(torch.cuda, "graph", lambda graph: self.within("recording"))
        patch.setattr(torch.cuda, "synchronize", lambda _device: self.done.append("wait"))

    def infer(self, _network, given):
        self.done.append("infer")
        self.addresses.add(given[0].data_ptr())

    def stream(self, name):
        return SimpleNamespace(name=name, wait_stream=lambda other: self.done.append(f"{name} after {other.name}"))

    @contextmanager
    def within(self, name):
        self.done.append(name)
        yield
        self.done.append(f"end of {name}")

    def replay(self):
        self.done.append("replay")


def test_an_inference_is_recorded_once_after_a_warm_up_on_another_stream(tiny, images, monkeypatch):
    made = runner(tiny())
    made.cuda_graph = True
    cuda = Cuda(monkeypatch, made.network)
    infer = made.prepare(images(2).numpy())
    assert cuda.done == [
        "side after current", "side", "infer", "infer", "infer", "end of side", "current after side",
        "recording", "infer", "end of recording",
    ]  # fmt: skip
    cuda.done.clear()
    np.testing.assert_array_equal(infer().numpy(), infer().numpy())
    assert cuda.done == ["replay", "wait"] * 2
    assert cuda.addresses == {infer.images.data_ptr()}  # held as long as the recording, which reads from there


@pytest.mark.heavy
def test_a_compiled_network_gives_the_logits_of_the_network(tiny, images, monkeypatch):
    compiled = []

    def eager(network):
        compiled.append(network)
        return torch._dynamo.optimize("eager")(network)

    monkeypatch.setattr(torch, "compile", eager)
    made, plain = runner(tiny(), compile=True), runner(tiny())
    assert compiled == [made.network]
    for count in (2, 5):
        np.testing.assert_allclose(made(images(count).numpy()), plain(images(count).numpy()), atol=1e-6)
        np.testing.assert_allclose(
            made.prepare(images(count).numpy())().numpy(), plain(images(count).numpy()), atol=1e-6
        )
    assert len(compiled) == 1
