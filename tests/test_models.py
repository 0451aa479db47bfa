"""Networks by name, what they cost, and which of them unknown weights belong to."""

import math
import sys

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from compressor.errors import EnvironmentMissing, UsageError
from compressor.models import (
    architectures,
    build,
    candidates,
    catalogue,
    explain,
    lenet,
    macs,
    parameters,
    title,
    torchvision_zoo,
)
from compressor.models.infer import ANY_CLASSES, signature
from compressor.models.layers import on_meta
from compressor.models.resnet import ZeroPad

MEMBERS = [
    "resnet8",
    "resnet20-centred",
    "resnet14-conv",
    "resnet8x4",
    "wrn-10-1",
    "wrn-16-2",
    "vgg8",
    "vgg11-pool5",
    "mobilenetv2-0.25",
    "mobilenetv2",
    "mobilenetv2-conv",
    "seresnet8",
    "shufflenetv2-0.5",
    "lenet5",
    "lenet5-half",
]


def raw(arch, classes=10, channels=3, size=32):
    return build(arch, classes=classes, input_shape=(channels, size, size))


def alike(arch):
    """The architectures whose tensors have the same shapes."""
    if arch.startswith("resnet") and not arch.endswith(("-conv", "x4")):
        return {arch.removesuffix("-centred"), arch.removesuffix("-centred") + "-centred"}
    if arch.startswith("vgg"):
        return {arch.removesuffix("-pool5"), arch.removesuffix("-pool5") + "-pool5"}
    twins = {"mobilenetv2": "torchvision/mobilenet_v2", "shufflenetv2-0.5": "torchvision/shufflenet_v2_x0_5"}
    return {arch, twins.get(arch, arch)}


def run_in(network, batches=4, size=16):
    """Give BatchNorm something to remember: averages over smooth bright images, which are unlike noise."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    network.train()
    with torch.no_grad():
        for _ in range(batches):
            network(F.interpolate(torch.rand(32, 3, 4, 4), size=size, mode="bilinear") / 2 + 1)
    return network.eval()


@pytest.fixture
def few_torchvision(monkeypatch):
    """Only a few classifiers, where all of them would take seconds."""
    names = tuple(f"torchvision/{name}" for name in ("resnet18", "resnet34", "googlenet", "squeezenet1_1"))
    monkeypatch.setattr(torchvision_zoo, "names", lambda: names)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A function that writes `mynets.py` into a current folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)

    def write(text):
        (tmp_path / "mynets.py").write_text("from torch import nn\n" + text)

    yield write
    sys.modules.pop("mynets", None)


# Closed forms


@pytest.mark.parametrize(
    ("arch", "classes", "count"),
    [
        ("resnet8", 10, 75_290),
        ("resnet14", 10, 172_506),
        ("resnet20", 10, 269_722),
        ("resnet26", 10, 366_938),
        ("resnet20-conv", 100, 278_324),
        ("resnet8x4", 100, 1_233_540),
        ("resnet32x4", 100, 7_433_860),
        ("wrn-28-10", 10, 36_479_194),
        ("resnet18-stem3", 10, 11_173_962),
        ("resnet50-stem3", 10, 23_520_842),
        ("lenet5", 10, 61_706),
        ("torchvision/resnet18", 1000, 11_689_512),
    ],
)
def test_parameter_counts_are_the_published_ones(arch, classes, count):
    size = 224 if "/" in arch else 32
    channels = 1 if arch.startswith("lenet") else 3

    assert parameters(on_meta(lambda: build(arch, classes=classes, input_shape=(channels, size, size)))) == count


def test_macs_of_a_convolution_and_a_linear_layer_are_their_closed_forms():
    convolution = nn.Conv2d(3, 8, 5, stride=2, padding=2, groups=1)
    grouped = nn.Conv2d(4, 8, 3, groups=4, bias=False)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(48, 7))

    assert macs(convolution, (3, 16, 12)) == 8 * 6 * 8 * 3 * 25
    assert macs(grouped, (4, 6, 6)) == 4 * 4 * 8 * 9
    assert macs(linear, (3, 4, 4)) == 48 * 7


def test_macs_count_attention_with_and_without_memory():
    # Per token: four projections of 16x16, two products with 5 tokens, two layers of 16x32.
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

        def forward(self, images):
            return self.layer(images.flatten(2).transpose(1, 2))

    expected = 5 * (4 * 16 * 16 + 2 * 5 * 16 + 2 * 16 * 32)

    assert macs(Tokens(), (16, 5, 1)) == expected
    assert macs(on_meta(Tokens), (16, 5, 1)) == expected


@pytest.mark.parametrize("arch", ["resnet20", "wrn-10-1", "mobilenetv2-0.25"])
def test_macs_with_and_without_memory_are_equal(arch):
    assert macs(raw(arch), (3, 32, 32)) == macs(on_meta(lambda: raw(arch)), (3, 32, 32))


def test_counting_leaves_the_network_as_it_was(tiny):
    network = tiny().half()
    network.train()
    network.body[1].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}

    macs(network, (3, 8, 8))

    assert [module.training for module in network.body] == [True, False, True, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_zero_padding_puts_new_channels_last_or_around():
    x = torch.arange(1.0, 33.0).view(1, 2, 4, 4)

    last, around = ZeroPad(2, before=0, total=2)(x), ZeroPad(2, before=1, total=2)(x)

    assert torch.equal(last[:, :2], x[:, :, ::2, ::2])
    assert not last[:, 2:].any()
    assert torch.equal(around[:, 1:3], x[:, :, ::2, ::2])
    assert not around[:, [0, 3]].any()


def test_resnet_activates_after_the_sum_and_wide_resnet_before_the_convolutions():
    x = torch.randn(2, 16, 4, 4)
    after, before = raw("resnet8").layer1[0].eval(), raw("wrn-10-1").layer1[0].eval()
    nn.init.zeros_(after.bn2.weight)
    nn.init.zeros_(before.conv2.weight)

    assert torch.equal(after(x), x.relu())
    assert torch.equal(before(x), x)


def test_wide_resnet_shortcut_starts_after_the_first_activation():
    block = raw("wrn-10-1").layer2[0].eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 4, 4)

    assert torch.allclose(block(x), block.shortcut(block.bn1(x).relu()))


def test_lenet_of_28_pixels_is_that_of_32_with_a_border():
    small = raw("lenet5", channels=1, size=28)
    large = raw("lenet5", channels=1)
    large.load_state_dict(small.state_dict())
    images = torch.rand(2, 1, 28, 28)

    assert torch.allclose(small(images), large(F.pad(images, (2, 2, 2, 2))), atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "module", "size", "expected"),
    [
        ("resnet8", "layer3", 32, 8),
        ("wrn-10-1", "layer3", 32, 8),
        ("vgg8", "block4", 32, 4),
        ("vgg8", "block4", 64, 4),
        ("vgg8-pool5", "features", 32, 1),
        ("mobilenetv2-0.25", "features.0", 32, 32),
        ("mobilenetv2-0.25", "features", 32, 4),
        ("shufflenetv2-0.5", "maxpool", 32, 32),
        ("shufflenetv2-0.5", "conv5", 32, 4),
    ],
)
def test_maps_have_the_size_that_fits_small_images(arch, module, size, expected):
    network = raw(arch, size=size).eval()
    sizes = []
    network.get_submodule(module).register_forward_hook(lambda _m, _i, output: sizes.append(tuple(output.shape[2:])))

    network(torch.rand(1, 3, size, size))

    assert sizes == [(expected, expected)]


@pytest.mark.parametrize("arch", ["resnet32x4", "vgg8", "wrn-16-2"])
def test_convolutions_start_with_the_published_deviation(arch):
    convolutions = [m for m in raw(arch).modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 30_000]

    assert convolutions
    for convolution in convolutions:
        deviation = math.sqrt(2 / (convolution.kernel_size[0] ** 2 * convolution.out_channels))
        assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.05)


# Invariants


@pytest.mark.heavy
@pytest.mark.parametrize("arch", MEMBERS)
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)])
def test_every_family_takes_every_small_size(arch, shape):
    network = build(arch, classes=7, input_shape=shape).eval()

    with torch.no_grad():
        assert network(torch.rand(2, *shape)).shape == (2, 7)


def test_the_same_seed_gives_the_same_network():
    first, second = (torch.manual_seed(3) and raw("resnet8").state_dict() for _ in range(2))

    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.heavy
@settings(max_examples=30, derandomize=True)
@given(arch=st.sampled_from(MEMBERS), classes=st.integers(2, 300), channels=st.integers(1, 4), renamed=st.booleans())
def test_weights_lead_back_to_their_architecture(arch, classes, channels, renamed):
    weights = raw(arch, classes, channels).state_dict()
    names = {key: f"t{len(weights) - place}" if renamed else key for place, key in enumerate(weights)}
    torchvision_fits = channels == 3

    found = candidates({names[key]: value for key, value in weights.items()})

    assert {one.arch for one in found} == {a for a in alike(arch) if torchvision_fits or "/" not in a}
    mine = next(one for one in found if one.arch == arch)
    assert (mine.classes, mine.channels, mine.exact) == (classes, channels, not renamed)
    assert mine.mapping == {names[key]: key for key in weights}
    assert mine.matched == mine.total == len(weights)


@pytest.mark.heavy
@settings(max_examples=15, derandomize=True)
@given(blocks=st.integers(1, 9), kind=st.sampled_from(["", "-centred", "-conv", "x4"]))
def test_any_depth_of_6n_plus_2_is_built_and_found(blocks, kind):
    arch = f"resnet{6 * blocks + 2}{kind}"
    shapes = on_meta(lambda: raw(arch)).state_dict()

    found = {one.arch for one in candidates({key: torch.zeros_like(shapes[key], device="cpu") for key in shapes})}

    assert arch in found
    assert found <= alike(arch)


@pytest.mark.heavy
@pytest.mark.parametrize("arch", ["resnet20", "resnet20-centred", "resnet32"])
def test_what_batchnorm_remembers_tells_the_two_zero_paddings_apart(arch):
    network = run_in(raw(arch))

    for weights in (network.state_dict(), {f"k{i}": v.clone() for i, v in enumerate(network.state_dict().values())}):
        assert [one.arch for one in candidates(weights)] == [arch]


def test_half_precision_weights_are_found_like_any():
    network = run_in(raw("resnet20-centred"))
    weights = {k: v.half() if "conv" in k else v for k, v in network.state_dict().items()}

    assert [one.arch for one in candidates(weights)] == ["resnet20-centred"]


def test_finding_an_architecture_changes_neither_weights_nor_random_numbers():
    weights = run_in(raw("resnet8")).state_dict()
    before = {key: value.clone() for key, value in weights.items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    candidates(weights)

    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(weights[key], before[key]) for key in weights)


def test_names_of_other_code_lead_to_the_same_logits():
    network = run_in(raw("resnet14-conv"))
    theirs = {
        key.replace("shortcut", "downsample").replace("linear", "fc"): value
        for key, value in network.state_dict().items()
        if "num_batches_tracked" not in key
    }
    images = torch.rand(2, 3, 32, 32)
    (one,) = candidates(theirs)
    again = raw(one.arch).eval()

    again.load_state_dict({one.mapping[key]: theirs[key] for key in theirs})

    assert one.mapping["layer2.0.downsample.1.running_var"] == "layer2.0.shortcut.1.running_var"
    assert (one.exact, one.matched, one.total) == (False, len(theirs), len(theirs))
    assert torch.equal(again(images), network(images))


def test_torchvisions_network_with_a_stem_for_small_images_is_in_the_catalogue():
    theirs = torchvision.models.resnet18(num_classes=10)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    public = {
        name.replace("downsample", "shortcut").replace("fc.", "linear."): value
        for name, value in theirs.state_dict().items()
    }

    (own,), (other,) = candidates(theirs.state_dict()), candidates(public)

    assert (own.arch, own.exact, other.arch, other.exact) == ("resnet18-stem3", True, "resnet18-stem3", False)
    network = build("resnet18-stem3", classes=10, input_shape=(3, 32, 32))
    network.load_state_dict({there: public[here] for here, there in other.mapping.items()})
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("arch", ["resnet18-stem3-preact", "resnet50-stem3"])
def test_the_other_networks_with_a_stem_for_small_images_are_told_apart(arch):
    network = on_meta(lambda: build(arch, classes=10, input_shape=(3, 32, 32)))

    assert [one.arch for one in candidates(network.state_dict())] == [arch]


@pytest.mark.heavy
@pytest.mark.parametrize(("head", "shortcut"), [("fc", "downsample"), ("zzz", "downsample"), ("linear", "shortcut")])
def test_a_file_that_sorts_its_keys_still_leads_back(head, shortcut):
    weights = run_in(raw("resnet68-conv", size=16)).state_dict()  # ten blocks and more: `10` sorts before `2`
    theirs = {key.replace("linear", head).replace("shortcut", shortcut): key for key in weights}

    (one,) = candidates({key: weights[theirs[key]] for key in sorted(theirs, key=lambda key: ("tracked" in key, key))})

    assert one.mapping == theirs
    assert one.exact == (theirs == {key: key for key in weights})


def test_own_names_are_found_in_any_order():
    weights = run_in(raw("resnet20")).state_dict()

    (one,) = candidates({key: weights[key] for key in sorted(weights, key=lambda key: key[::-1])})

    assert (one.arch, one.exact) == ("resnet20", True)


def test_weights_that_overflow_leave_both_zero_paddings():
    weights = run_in(raw("resnet20")).state_dict()
    weights["layer1.0.conv1.weight"].fill_(3e38)
    means = weights["layer1.0.bn1.running_mean"].clone()

    assert [one.arch for one in candidates(weights)] == ["resnet20", "resnet20-centred"]
    assert torch.equal(weights["layer1.0.bn1.running_mean"], means)


def test_own_names_come_first_where_shapes_are_alike():
    assert [one.arch for one in candidates(raw("vgg8-pool5").state_dict())] == ["vgg8-pool5", "vgg8"]
    assert [one.arch for one in candidates(raw("vgg8").state_dict())] == ["vgg8", "vgg8-pool5"]


@pytest.mark.usefixtures("few_torchvision")
def test_torchvision_weights_are_found_without_the_classifiers_that_only_help_training():
    import torchvision

    plain = torchvision.models.resnet18(num_classes=5)
    helped = torchvision.models.googlenet(num_classes=6, aux_logits=True, init_weights=False)

    (first,) = candidates(plain.state_dict())
    (second,) = candidates(helped.state_dict())

    assert (first.arch, first.classes, first.channels, first.exact) == ("torchvision/resnet18", 5, 3, True)
    assert (second.arch, second.classes, second.exact) == ("torchvision/googlenet", 6, True)
    assert second.matched < second.total == len(helped.state_dict())


@pytest.mark.usefixtures("few_torchvision")
def test_a_classifier_without_linear_layers_shows_its_classes():
    weights = torchvision_zoo.make("torchvision/squeezenet1_1", 9, (3, 64, 64)).state_dict()

    assert [(one.arch, one.classes) for one in candidates(weights)] == [("torchvision/squeezenet1_1", 9)]


@pytest.mark.parametrize("name", ["regnet_y_400mf", "inception_v3", "swin_t", "mnasnet0_5"])
def test_classifiers_that_compute_their_plan_are_read_without_memory(name):
    tensors = signature(f"torchvision/{name}")

    assert sum(ANY_CLASSES in shape for _, shape in tensors) == 2


def test_plans_that_networks_compute_stay_real_without_memory():
    network = on_meta(lambda: nn.Linear(2, int(torch.arange(3.0).add_(1)[2])))

    assert network.weight.shape == (3, 2)
    assert network.weight.is_meta


@pytest.mark.heavy
def test_catalogue_lists_what_can_be_built_with_computed_numbers():
    listed = catalogue()
    entries = {entry.name: entry for entry in listed}

    assert len(entries) == len(listed) > 25
    assert entries["resnet20"].parameters == 269_722
    assert entries["resnet20"].input_shape == (3, 32, 32)
    assert 40e6 < entries["resnet20"].macs < 41e6
    assert all(entry.description and entry.macs > 0 for entry in entries.values())
    assert {"wrn-40-2", "vgg13", "mobilenetv2-0.5", "shufflenetv2-1.0", "lenet5-half"} <= entries.keys()


@pytest.mark.usefixtures("few_torchvision")
def test_catalogue_with_torchvision_adds_its_classifiers(monkeypatch):
    monkeypatch.setattr(architectures, "FAMILIES", (lenet,))

    entry = next(entry for entry in catalogue(torchvision=True) if entry.name == "torchvision/resnet18")

    assert (entry.parameters, entry.input_shape) == (11_689_512, (3, 224, 224))
    assert entry.macs == pytest.approx(1.814e9, rel=1e-3)


def test_titles_say_what_data_a_family_is_known_from():
    assert title("resnet110") == "resnet110 (CIFAR)"
    assert title("lenet5-half") == "lenet5-half (MNIST)"
    assert title("torchvision/resnet18") == "torchvision/resnet18"
    assert title("resnets.mine:small") == "resnets.mine:small"


def test_wide_resnet_may_be_spelt_in_three_ways():
    counts = {parameters(raw(arch)) for arch in ("wrn-16-2", "wrn16-2", "wrn_16_2")}

    assert len(counts) == 1


@pytest.mark.heavy
def test_vision_transformers_are_built_for_the_size_of_the_images():
    network = build("torchvision/vit_b_32", classes=3, input_shape=(3, 64, 64))

    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 3)


# Refusals


@pytest.mark.parametrize(
    ("arch", "message", "hint"),
    [
        ("resnet21", "6n+2", "'resnet20'"),
        ("resnet2", "6n+2", "'resnet8'"),
        ("resnet30-conv", "6n+2", "-conv'"),
        ("resnet99999998", "6n+2", "'resnet1202'"),
        ("resnet18", "6n+2", "'torchvision/resnet18'"),
        ("restnet20", "unknown architecture 'restnet20'", "'resnet20'"),
        ("resnet8x3", "unknown architecture", "'resnet8x4'"),
        ("mobilenet_v3_small", "unknown architecture", "'torchvision/mobilenet_v3_small'"),
        ("???", "unknown architecture", "compress models"),
        ("wrn-17-2", "6n+4", "'wrn-16-2'"),
        ("wrn-16-0", "times as wide", "wrn-40-2"),
        ("torchvision/resnt18", "torchvision has no classifier", "'torchvision/resnet18'"),
        ("timm/resnt18", "timm has no classifier", "'timm/resnet18'"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_nearest(arch, message, hint):
    with pytest.raises(UsageError) as refused:
        raw(arch)

    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("arch", "shape", "message"),
    [
        ("vgg8", (3, 4, 32), "at least 8x8"),
        ("torchvision/resnet18", (1, 28, 28), "3 channels, not 1"),
        ("torchvision/alexnet", (3, 32, 32), "cannot take images of 3x32x32"),
        ("torchvision/vit_b_16", (3, 30, 30), "cannot take images"),
    ],
)
def test_images_that_a_network_cannot_take_are_refused(arch, shape, message):
    with pytest.raises(UsageError, match=message) as refused:
        build(arch, classes=10, input_shape=shape)

    assert refused.value.hint


@pytest.mark.heavy
@pytest.mark.usefixtures("few_torchvision")
def test_weights_that_fit_nothing_are_explained_by_the_nearest():
    weights = raw("resnet20").state_dict()
    weights["layer3.0.conv1.weight"] = weights["layer3.0.conv1.weight"][:32]

    assert candidates(weights) == []
    assert explain(weights) == (
        "resnet20 (CIFAR) fits 96 of 97 tensors; "
        "first mismatch: layer3.0.conv1.weight is [32, 32, 3, 3] here and [64, 32, 3, 3] there"
    )


@pytest.mark.usefixtures("few_torchvision")
def test_explanations_name_missing_and_superfluous_tensors():
    weights = raw("lenet5").state_dict()
    less = {key: value for key, value in weights.items() if key != "fc2.bias"}
    more = {**weights, "extra": torch.zeros(3)}

    assert explain(less) == "lenet5 (MNIST) fits 9 of 9 tensors; first mismatch: 1 of its tensors are missing here"
    assert explain(more) == "lenet5 (MNIST) fits 10 of 11 tensors; first mismatch: extra [3] has no place there"
    assert explain({"a": torch.zeros(3, 3, 3)}) == "no known architecture resembles these 1 tensors"
    assert candidates(less) == candidates(more) == candidates({}) == []


@pytest.mark.usefixtures("few_torchvision")
def test_heads_that_disagree_on_the_classes_are_no_fit():
    weights = raw("resnet8").state_dict()
    weights["linear.bias"] = torch.zeros(9)

    assert candidates(weights) == []


# timm, and a user's own code


def test_timm_networks_take_any_channels():
    network = build("timm/resnet18", classes=4, input_shape=(1, 32, 32)).eval()

    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 4)


def test_timm_that_is_not_installed_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)

    with pytest.raises(EnvironmentMissing, match="timm/resnet18 needs the package timm") as missing:
        raw("timm/resnet18")

    assert missing.value.hint == "pip install 'compressor[timm]'"


@pytest.mark.parametrize(
    "takes",
    [
        "classes, input_shape",
        "num_classes, input_shape",
        "num_classes",
        "**options",
        "*, classes, input_shape, depth=3",
    ],
)
def test_a_factory_is_given_what_it_asks_for(folder, takes):
    shape = "input_shape[0] * input_shape[1] * input_shape[2]" if "input_shape" in takes else "192"
    classes = next((name for name in ("num_classes", "classes") if name in takes), "options['num_classes']")
    folder(f"def tiny({takes}):\n    return nn.Sequential(nn.Flatten(), nn.Linear({shape}, {classes}))\n")
    path = list(sys.path)

    network = build("mynets:tiny", classes=5, input_shape=(3, 8, 8))

    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    assert network.training
    assert sys.path == path


@pytest.mark.parametrize(
    ("arch", "text", "message", "hint"),
    [
        (
            "mynets:tiny",
            "def tiny():\n    return nn.Linear(3, 2)\n",
            "cannot take images of 3x8x8: RuntimeError",
            "logits",
        ),
        ("mynets:tiny", "def tiny():\n    return nn.Flatten()\n", r"float32 \[2, 192\] for 2 images", "logits"),
        ("mynets:tiny", "def tiny():\n    return 3\n", "returns a int, not an nn.Module", "a factory takes"),
        ("mynets:tiny", "def tiny(depth):\n    pass\n", "needs an argument 'depth'", "a factory takes"),
        (
            "mynets:tiny",
            "def tiny():\n    raise ValueError('no luck')\n",
            r"fails: ValueError: no luck \(mynets",
            "takes",
        ),
        ("mynets:tiny", "tiny = nn.Flatten()\n", "is a Flatten, not a function", "a factory takes"),
        ("mynets:tinny", "def tiny():\n    pass\n", "mynets has no 'tinny'", "'tiny'"),
        ("mynets:tiny", "import nowhere_at_all\n", "importing mynets fails: ModuleNotFoundError", "install"),
        ("mynets:tiny", "1 / 0\n", r"importing mynets fails: ZeroDivisionError: .* \(mynets.py:2\)", "import mynets"),
        ("mynet:tiny", "", "there is no module 'mynet'", "PYTHONPATH"),
        ("mynets:", "", "is not package.module:name", "for example"),
    ],
)
def test_a_factory_that_cannot_be_used_is_told_why(folder, arch, text, message, hint):
    folder(text)

    with pytest.raises(UsageError, match=message) as refused:
        build(arch, classes=5, input_shape=(3, 8, 8))

    assert hint in refused.value.hint


def test_a_factory_whose_network_returns_several_things_is_refused(folder):
    folder(
        "class Two(nn.Module):\n"
        "    def forward(self, images):\n"
        "        return images, images\n"
        "def tiny():\n"
        "    return Two()\n"
    )

    with pytest.raises(UsageError, match="returns a tuple where one tensor of logits is needed"):
        build("mynets:tiny", classes=5, input_shape=(3, 8, 8))
