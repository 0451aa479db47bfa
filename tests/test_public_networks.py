"""Networks for small images as public code has them: their names, shapes and functions, written here anew."""

from itertools import pairwise

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from compressor.errors import UsageError
from compressor.models import build, candidates, parameters, twin, wide_stem
from compressor.models.densenet import Layer, Transition
from compressor.models.layers import on_meta
from compressor.models.squeeze import Active, Preact, Weighed


def made(arch, size=32, classes=10):
    return build(arch, classes=classes, input_shape=(3, size, size))


def norm(name, width):
    """The tensors of a BatchNorm layer."""
    ones, zeros = torch.ones(width), torch.zeros(width)
    return {
        **{f"{name}.weight": ones, f"{name}.bias": zeros, f"{name}.running_mean": zeros, f"{name}.running_var": ones},
        f"{name}.num_batches_tracked": torch.zeros(()),
    }


def conv(name, outputs, inputs, size, *, bias=False):
    weights = {f"{name}.weight": torch.zeros(outputs, inputs, size, size)}
    return {**weights, f"{name}.bias": torch.zeros(outputs)} if bias else weights


def linear(name, outputs, inputs, *, bias=True):
    weights = {f"{name}.weight": torch.zeros(outputs, inputs)}
    return {**weights, f"{name}.bias": torch.zeros(outputs)} if bias else weights


def dense(counts, growth, names, classes=10):
    """A DenseNet-BC whose parts are called as `names(block, layer, part)` and `names(block, None, part)` say."""
    width = 2 * growth
    found = conv("conv1", width, 3, 3)
    for block, count in enumerate(counts):
        for layer in range(count):
            found |= norm(names(block, layer, "bn1"), width) | conv(names(block, layer, "conv1"), 4 * growth, width, 1)
            found |= norm(names(block, layer, "bn2"), 4 * growth)
            found |= conv(names(block, layer, "conv2"), growth, 4 * growth, 3)
            width += growth
        if block + 1 < len(counts):
            found |= norm(names(block, None, "bn"), width) | conv(names(block, None, "conv"), width // 2, width, 1)
            width //= 2
    return found | norm(names(0, None, "last"), width) | linear("linear", classes, width)


def short(block, layer, part):
    """Names of the commonest repository."""
    if part == "last":
        return "bn"
    return f"trans{block + 1}.{part}" if layer is None else f"dense{block + 1}.{layer}.{part}"


def long(block, layer, part):
    """Names of sequences in sequences, whose places are numbers."""
    if part == "last":
        return "features.bn"
    if layer is None:
        return f"features.transition_layer_{block}.down_sample.{ {'bn': 0, 'conv': 1}[part] }"
    place = {"bn1": 0, "conv1": 2, "bn2": 3, "conv2": 5}[part]
    return f"features.dense_block_layer_{block}.bottle_neck_layer_{layer}.bottle_neck.{place}"


FORMS = ["", "-front", "-linear"]


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("counts", "growth", "arch"),
    [
        ((16, 16, 16), 12, "densenet-bc-100-12"),
        ((6, 12, 24, 16), 12, "densenet121-k12-stem3"),
        ((6, 12, 32, 32), 32, "densenet169-stem3"),
    ],
)
@pytest.mark.parametrize("names", [short, long])
def test_dense_networks_are_found_under_any_names_and_their_three_forms_are_named(counts, growth, arch, names):
    weights = dense(counts, growth, names)

    found = candidates(weights)

    assert [one.arch for one in found] == [arch + form for form in FORMS]
    assert {one.exact for one in found} == {names is short}
    assert sum(w.numel() for name, w in weights.items() if "running" not in name and w.ndim) == parameters(
        on_meta(lambda: made(arch))
    )


@pytest.mark.heavy
def test_what_batchnorm_remembers_tells_the_forms_of_a_dense_network_apart():
    for form in FORMS:
        torch.manual_seed(3)
        network = made(f"densenet-bc-16-6{form}")
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
                nn.init.normal_(module.bias, std=4)  # channels that differ, as those of trained networks do
        network.train()
        with torch.no_grad():
            for _ in range(4):
                network(F.interpolate(torch.rand(32, 3, 4, 4), size=16, mode="bilinear") / 2 + 1)

        assert [one.arch for one in candidates(network.state_dict())] == [f"densenet-bc-16-6{form}"]


def test_new_channels_stand_behind_the_old_ones_or_in_front():
    x = torch.rand(2, 6, 4, 4)
    torch.manual_seed(0)
    behind = Layer(6, 3, front=False).eval()
    torch.manual_seed(0)
    front = Layer(6, 3, front=True).eval()

    assert torch.equal(behind(x)[:, :6], x)
    assert torch.equal(front(x)[:, 3:], x)
    assert torch.equal(behind(x)[:, 6:], front(x)[:, :3])


def test_a_transition_averages_four_pixels_with_or_without_relu():
    x = -torch.ones(1, 2, 4, 4)
    for active, expected in ((True, 0.0), (False, -1.0)):
        transition = Transition(2, 1, active=active).eval()
        nn.init.constant_(transition.conv.weight, 0.5)

        assert torch.allclose(transition(x), torch.full((1, 1, 2, 2), expected), atol=1e-4)


@pytest.mark.heavy
def test_torchvisions_dense_network_with_a_3x3_stem_keeps_its_pooling():
    theirs = torchvision.models.densenet121(num_classes=10)
    theirs.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)

    (one,) = candidates(theirs.state_dict())

    assert (one.arch, one.exact) == ("densenet121-stem3-pooled", True)
    ours = made(one.arch)
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


PLAN = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobile(classes=10):
    """MobileNetV2 with 1x1 convolutions as shortcuts."""
    found, inputs, place = conv("conv1", 32, 3, 3) | norm("bn1", 32), 32, 0
    for expansion, outputs, count, first in PLAN:
        for stride in (first, *[1] * (count - 1)):
            name, inner = f"layers.{place}", inputs * expansion
            found |= conv(f"{name}.conv1", inner, inputs, 1) | norm(f"{name}.bn1", inner)
            found |= conv(f"{name}.conv2", inner, 1, 3) | norm(f"{name}.bn2", inner)
            found |= conv(f"{name}.conv3", outputs, inner, 1) | norm(f"{name}.bn3", outputs)
            if stride == 1 and inputs != outputs:
                found |= conv(f"{name}.shortcut.0", outputs, inputs, 1) | norm(f"{name}.shortcut.1", outputs)
            inputs, place = outputs, place + 1
    return found | conv("conv2", 1280, 320, 1) | norm("bn2", 1280) | linear("linear", classes, 1280)


def mobile_biased(classes=100):
    """MobileNetV2 with a 1x1 stem and biases."""
    found, inputs = conv("pre.0", 32, 3, 1, bias=True) | norm("pre.1", 32), 32
    for stage, (expansion, outputs, count, _) in enumerate(PLAN, start=1):
        for place in range(count):
            name = f"stage{stage}.residual" if count == 1 else f"stage{stage}.{place}.residual"
            inner = inputs * expansion
            found |= conv(f"{name}.0", inner, inputs, 1, bias=True) | norm(f"{name}.1", inner)
            found |= conv(f"{name}.3", inner, 1, 3, bias=True) | norm(f"{name}.4", inner)
            found |= conv(f"{name}.6", outputs, inner, 1, bias=True) | norm(f"{name}.7", outputs)
            inputs = outputs
    found |= conv("conv1.0", 1280, 320, 1, bias=True) | norm("conv1.1", 1280)
    return found | conv("conv2", classes, 1280, 1, bias=True)


def squeezed(depth, names, *, classes=10):
    """A residual network with squeeze and excitation and a 3x3 stem; see its two callers."""
    widths, counts = wide_stem.WIDTHS, wide_stem.BLOCKS[depth]
    found, inputs = names.stem(widths[0]), widths[0]
    for stage, (width, count) in enumerate(zip(widths, counts, strict=True), start=1):
        for place in range(count):
            found |= names.block(f"{names.stage}{stage}.{place}", inputs, width, changes=place == 0 and stage > 1)
            inputs = width
    return found | linear("linear", classes, inputs)


class Normalised:
    """Blocks that normalise first, with 1x1 convolutions that weigh the channels."""

    stage = "layer"

    @staticmethod
    def stem(width):
        return conv("conv1", width, 3, 3) | norm("bn1", width)

    @staticmethod
    def block(name, inputs, width, *, changes):
        found = norm(f"{name}.bn1", inputs) | conv(f"{name}.conv1", width, inputs, 3)
        found |= norm(f"{name}.bn2", width) | conv(f"{name}.conv2", width, width, 3)
        found |= conv(f"{name}.shortcut.0", width, inputs, 1) if changes else {}
        inner = width // 16
        return found | conv(f"{name}.fc1", inner, width, 1, bias=True) | conv(f"{name}.fc2", width, inner, 1, bias=True)


class Biased:
    """Blocks with biases, and linear layers that weigh the channels."""

    stage = "stage"

    @staticmethod
    def stem(width):
        return conv("pre.0", width, 3, 3, bias=True) | norm("pre.1", width)

    @staticmethod
    def block(name, inputs, width, *, changes):
        found = conv(f"{name}.residual.0", width, inputs, 3, bias=True) | norm(f"{name}.residual.1", width)
        found |= conv(f"{name}.residual.3", width, width, 3, bias=True) | norm(f"{name}.residual.4", width)
        if changes:
            found |= conv(f"{name}.shortcut.0", width, inputs, 1, bias=True) | norm(f"{name}.shortcut.1", width)
        inner = width // 16
        return found | linear(f"{name}.excitation.0", inner, width) | linear(f"{name}.excitation.2", width, inner)


def cifar_squeezed(count=3):
    """Three stages of 16 to 64 channels, with linear layers without biases."""
    found = conv("conv1", 16, 3, 3) | norm("bn1", 16)
    for stage, (before, width) in enumerate(pairwise((16, 16, 32, 64)), start=1):
        for place in range(count):
            name, inputs = f"layer{stage}.{place}", before if place == 0 else width
            found |= conv(f"{name}.conv1", width, inputs, 3) | norm(f"{name}.bn1", width)
            found |= conv(f"{name}.conv2", width, width, 3) | norm(f"{name}.bn2", width)
            found |= linear(f"{name}.se.fc.0", width // 16, width, bias=False)
            found |= linear(f"{name}.se.fc.2", width, width // 16, bias=False)
            if inputs != width:
                found |= conv(f"{name}.downsample.0", width, inputs, 1) | norm(f"{name}.downsample.1", width)
    return found | linear("fc", 10, 64)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("weights", "arch", "exact"),
    [
        (mobile, "mobilenetv2-conv", True),
        (mobile_biased, "mobilenetv2-stem1", False),
        (lambda: squeezed(18, Normalised), "seresnet18-stem3-preact", True),
        (lambda: squeezed(34, Biased), "seresnet34-stem3-relu", False),
        (cifar_squeezed, "seresnet20", True),
    ],
)
def test_public_files_are_found_by_their_tensors(weights, arch, exact):
    tensors = weights()

    (one,) = candidates(tensors)

    assert (one.arch, one.exact, one.matched) == (arch, exact, len(tensors))
    assert one.classes == (100 if arch == "mobilenetv2-stem1" else 10)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("arch", "module", "expected"),
    [
        ("mobilenetv2-conv", "layers", 4),
        ("mobilenetv2-stem1", "pre", 34),
        ("mobilenetv2-stem1", "layers", 5),
        ("densenet-bc-10-4", "dense3", 8),
        ("densenet121-k12-stem3", "dense4", 4),
        ("seresnet8", "layer3", 8),
        ("seresnet18-stem3-preact", "layer4", 4),
        ("seresnet50-stem3-relu", "layer4", 4),
        ("resnet18-stem3-pooled", "layer1", 16),
        ("resnet18-stem3-pooled", "layer4", 2),
    ],
)
def test_maps_have_the_size_that_public_code_gives_them(arch, module, expected):
    network, seen = on_meta(lambda: made(arch)).eval(), []
    network.get_submodule(module).register_forward_hook(lambda _m, _i, output: seen.append(tuple(output.shape[2:])))

    logits = network(torch.empty(2, 3, 32, 32, device="meta"))

    assert logits.shape == (2, 10)
    assert seen == [(expected, expected)]


def test_channels_are_weighed_by_what_they_are_on_average():
    weighed = Weighed(16, bias=True)
    for place in (0, 2):
        nn.init.ones_(weighed.fc[place].weight)
        nn.init.zeros_(weighed.fc[place].bias)
    x = torch.zeros(1, 16, 2, 2)
    x[0, 5] = 0.5  # the averages sum to 0.5, so that every weight is sigmoid(0.5)

    torch.testing.assert_close(weighed(x), x * torch.sigmoid(torch.tensor(0.5)))


def test_blocks_add_their_input_to_what_they_weigh():
    x = torch.rand(2, 16, 6, 6)
    for block in (Preact(16, 16, 1), Active(16, 16, 1, narrow=False)):
        for convolution in (module for module in block.modules() if isinstance(module, nn.Conv2d)):
            nn.init.zeros_(convolution.weight)
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)

        torch.testing.assert_close(block.eval()(x), x)


@pytest.mark.heavy
def test_a_pooled_network_has_torchvisions_answers():
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    ours = made("resnet18-stem3-pooled")
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 32, 32)

    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))
    assert [one.arch for one in candidates(theirs.state_dict())] == ["resnet18-stem3"]
    assert (twin("resnet18-stem3"), twin("resnet18-stem3-pooled")) == ("resnet18-stem3-pooled", "resnet18-stem3")
    assert twin("resnet20") is None
    assert twin("resnet18-stem3-preact") is None


@pytest.mark.parametrize("arch", ["densenet-bc-11-12", "densenet-bc-100-0", "seresnet21", "densenet-bc-1000-12"])
def test_numbers_that_cannot_be_are_refused(arch):
    with pytest.raises(UsageError, match="cannot be"):
        made(arch)


@pytest.mark.parametrize("arch", ["densenet121-k12-stem3-pooled", "densenet99-stem3", "seresnet50-stem3-preact"])
def test_names_of_no_network_are_unknown(arch):
    with pytest.raises(UsageError, match="unknown architecture"):
        made(arch)
