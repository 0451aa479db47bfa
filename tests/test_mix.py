"""Images mixed of two: what is drawn, what is blended or pasted, and what is learnt from both labels."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from compressor.batch import Batch, Mixed
from compressor.data import Mix, Shard
from compressor.data.augment import Augmentation
from compressor.data.mix import Mixture, pasting
from compressor.data.split import Held, Split
from compressor.errors import UsageError
from compressor.methods import METHODS, Moment, Setting
from compressor.methods.labels import label_loss
from compressor.recipe import build, require_runnable

CPU = torch.device("cpu")
BLEND = Mix(mixup=1.0)
BOTH = Mix(mixup=0.4, cutmix=1.0)


def split_of(count=21, size=6):
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    return Split(Held(images), torch.arange(count), torch.arange(count) % 5, Augmentation(1, flip=True), CPU)


def drawn(split, mix, **options):
    return list(split.batches(8, **{"seed": 1, "epoch": 2, "augment": True, "mix": mix} | options))


# The mixture


def test_a_blend_is_the_weighted_sum_of_both():
    ours, others = torch.full((1, 3, 2, 2), 0.2), torch.full((1, 3, 2, 2), 0.8)

    torch.testing.assert_close(Mixture(0.75).apply(ours, others), torch.full((1, 3, 2, 2), 0.35))


def test_a_pasted_box_is_the_others_and_all_else_is_kept():
    ours, others = torch.zeros(1, 1, 4, 6), torch.ones(1, 1, 4, 6)

    mixture = pasting(0.75, 0.5, 0.5, 4, 6)  # a quarter of the area: half of the height, half of the width

    assert mixture.box == (1, 3, 2, 4) or mixture.box == (1, 3, 1, 4)
    mixed = mixture.apply(ours, others)
    assert mixed.sum().item() == pytest.approx((1 - mixture.share) * 24)
    assert not ours.any()


def test_a_box_that_reaches_beyond_the_image_counts_what_is_inside():
    mixture = pasting(0.75, 0.0, 1.0, 8, 8)  # a box of 4 x 4 in a corner

    assert mixture.box == (0, 2, 6, 8)
    assert mixture.share == 1 - 4 / 64


@given(
    share=st.floats(0, 1),
    down=st.floats(0, 1),
    across=st.floats(0, 1),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_the_share_is_the_part_of_the_pixels_that_stay(share, down, across, height, width):
    mixture = pasting(share, down, across, height, width)
    mixed = mixture.apply(torch.zeros(1, 1, height, width), torch.ones(1, 1, height, width))

    assert 0 <= mixture.share <= 1
    assert mixed.mean().item() == pytest.approx(1 - mixture.share, abs=1e-6)


def test_shares_are_drawn_from_the_beta_distribution_and_both_ways_are_as_likely():
    mixtures = [BOTH.draw(torch.Generator().manual_seed(seed), 32, 32) for seed in range(1500)]

    blends = torch.tensor([each.share for each in mixtures if each.box is None])
    assert len(blends) / len(mixtures) == pytest.approx(0.5, abs=0.04)
    assert blends.mean().item() == pytest.approx(0.5, abs=0.04)
    assert blends.var().item() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)  # of Beta(a, a): 1 / (4 (2a + 1))
    assert all(Mix(mixup=1.0).draw(torch.Generator().manual_seed(seed), 8, 8).box is None for seed in range(20))
    assert all(Mix(cutmix=1.0).draw(torch.Generator().manual_seed(seed), 8, 8).box for seed in range(20))


# Batches


@pytest.mark.parametrize("mix", [Mix(mixup=1.0), Mix(cutmix=1.0)])
def test_each_image_is_mixed_with_the_next_one_of_its_batch(mix):
    split = split_of()

    for plain, mixed in zip(drawn(split, None), drawn(split, mix), strict=True):
        others = plain.images.roll(-1, 0)
        assert torch.equal(mixed.labels, plain.labels)
        assert torch.equal(mixed.indices, plain.indices)
        assert torch.equal(mixed.mixed.labels, plain.labels.roll(-1))
        assert len(mixed.mixed.share.unique()) == 1
        share = mixed.mixed.share[0].item()
        if mix.mixup:
            torch.testing.assert_close(mixed.images, share * plain.images + (1 - share) * others)
        else:
            theirs = mixed.images == others
            assert torch.where(theirs, others, plain.images).equal(mixed.images)
            assert (mixed.images == plain.images).all(1).float().mean().item() >= share - 1e-6


@pytest.mark.parametrize("world", [2, 3])
def test_the_parts_of_all_processes_are_the_batch_of_one(world):
    split = split_of(22)
    whole = drawn(split, BOTH)
    parts = [drawn(split, BOTH, shard=Shard(rank, world)) for rank in range(world)]

    for number, batch in enumerate(whole):
        side = [part[number] for part in parts]
        assert torch.equal(torch.cat([each.images for each in side]), batch.images)
        assert torch.equal(torch.cat([each.labels for each in side]), batch.labels)
        assert torch.equal(torch.cat([each.mixed.labels for each in side]), batch.mixed.labels)
        assert torch.equal(torch.cat([each.mixed.share for each in side]), batch.mixed.share)


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_resumed_epoch_mixes_what_would_have_been_mixed(start):
    split = split_of()
    torch.manual_seed(start)
    late, whole = drawn(split, BOTH, start=start), drawn(split, BOTH)[start:]

    assert len(late) == len(whole)
    for ours, others in zip(late, whole, strict=True):
        assert torch.equal(ours.images, others.images)
        assert torch.equal(ours.mixed.share, others.mixed.share)


def test_batches_and_epochs_draw_other_shares():
    shares = [batch.mixed.share[0].item() for epoch in (0, 1) for batch in drawn(split_of(), BLEND, epoch=epoch)]

    assert len(set(shares)) == 6


def test_an_image_whose_next_one_cannot_be_read_stays_as_it_is():
    class Holed(Held):
        def fetch(self, batches):
            for images, places in super().fetch(batches):
                yield images[places != 2], places[places != 2]

    whole = split_of(8)
    holed = Split(Holed(whole.source.images), whole.rows, whole.labels, whole.augmentation, CPU)
    (plain,), (mixed,) = drawn(whole, None), drawn(holed, Mix(mixup=1.0))

    kept = [0, 1, 3, 4, 5, 6, 7]
    assert torch.equal(mixed.indices, plain.indices[kept])
    torch.testing.assert_close(mixed.images[1], plain.images[1])
    assert mixed.mixed.share.tolist() == [1.0 if place == 1 else mixed.mixed.share[0] for place in range(7)]


# Losses


def batch_of(count=6, classes=4):
    generator = torch.Generator().manual_seed(0)
    labels, others = torch.randint(classes, (2, count), generator=generator)
    mixed = Mixed(others, torch.rand(count, generator=generator))
    return Batch(torch.rand(count, 3, 8, 8, generator=generator), labels, torch.arange(count), mixed=mixed)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixture_is_the_cross_entropy_with_the_mixed_target(smoothing):
    batch, logits = batch_of(), torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    share = batch.mixed.share[:, None]
    target = share * F.one_hot(batch.labels, 4) + (1 - share) * F.one_hot(batch.mixed.labels, 4)
    target = (1 - smoothing) * target + smoothing / 4

    expected = -(target * logits.log_softmax(1)).sum(1).mean()

    torch.testing.assert_close(label_loss(logits, batch, smoothing=smoothing), expected)


@pytest.mark.parametrize("kind", ["kd", "bss", "cckd"])
def test_smoothing_spreads_a_part_of_the_target_over_all_classes(tiny, kind):
    student, teacher = tiny(seed=1).eval(), tiny().eval()
    given = Setting(student, [teacher], 4, (3, 8, 8), 6, torch.ones(3), CPU)
    options = {"form": "loss"} if kind == "cckd" else {}
    plain = Batch(batch_of().images, batch_of().labels, torch.arange(6))
    moment = Moment(0, 1, 0, torch.Generator())

    def ce(smoothing):
        objective = METHODS[kind](label_smoothing=smoothing, kd_weight=0, **options).build(given)
        return next(objective.updates(plain, moment)).terms["ce"]

    weight = torch.ones(6)
    if kind == "cckd":
        weight = 1 - teacher(plain.images).softmax(1).gather(1, plain.labels[:, None])[:, 0]
    rest = -student(plain.images).log_softmax(1).mean(1)
    torch.testing.assert_close(ce(0.2), 0.8 * ce(0.0) + 0.2 * (weight * rest).mean())


def test_teacher_and_student_see_the_same_mixed_images(tiny):
    seen = []
    student, teacher = tiny(seed=1), tiny()
    for network in (student, teacher):
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    given = Setting(student, [teacher], 4, (3, 8, 8), 6, torch.ones(3), CPU)
    batch = batch_of()

    list(METHODS["kd"]().build(given).updates(batch, Moment(0, 1, 0, torch.Generator())))

    assert len(seen) == 2
    assert all(images is batch.images for images in seen)


# Refusals


def recipe(**method):
    return build(
        {
            "student": {"arch": "resnet8"},
            "teacher": {"checkpoint": "t.pt"},
            "data": {"name": "digits", "augment": {"mixup": 0.2, "cutmix": 1.0}},
            "method": method,
        },
        base=Path.cwd(),
    )


@pytest.mark.parametrize("kind", ["bss", "cckd", "ai-kd", "ard"])
def test_methods_that_need_one_label_an_image_refuse_mixed_ones(kind):
    with pytest.raises(
        UsageError, match=f"method {kind} needs the true label of each image, and mixed images have two"
    ):
        require_runnable(recipe(kind=kind))


def test_kd_takes_mixed_images_unless_a_loss_of_it_does_not():
    assert {kind for kind, method in METHODS.items() if method.needs.mixed} == {"avg", "ce", "kd", "simkd"}
    require_runnable(recipe(kind="kd"))
    require_runnable(recipe(kind="kd", soft={"kind": "dkd"}))
    feature = {"kind": "crd", "student": "a", "teacher": "b"}
    with pytest.raises(UsageError, match="the loss crd needs the true label"):
        require_runnable(recipe(kind="kd", features=[feature]))
    with pytest.raises(UsageError, match="the loss ctkd needs the true label"):
        require_runnable(recipe(kind="kd", soft={"kind": "ctkd", "epochs": 2}))
