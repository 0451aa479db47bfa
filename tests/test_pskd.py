"""PS-KD: what an image is taught, and what is remembered of it. Its resume is in test_method_contract.py."""

import pytest
import torch
from lessons import Says
from torch.nn import functional as F

from compressor.batch import Batch
from compressor.methods import Moment, Setting
from compressor.methods.ce import CE
from compressor.methods.pskd import PSKD

STUDENT = [[0.0, 1.0, 2.0], [1.0, 0.0, -1.0]]
PAST = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]])
BATCH = Batch(torch.zeros(2, 3, 8, 8), torch.tensor([2, 0]), torch.tensor([4, 1]))


def moment(epoch, epochs=4):
    return Moment(epoch=epoch, epochs=epochs, step=0, generator=torch.Generator())


def build(config, **changes):
    given = {"student": Says(STUDENT), "teachers": (), "classes": 3, "input_shape": (3, 8, 8), "samples": 6}
    return config.build(Setting(**(given | {"std": torch.ones(3), "device": torch.device("cpu")} | changes)))


def loss(objective, at):
    (update,) = objective.updates(BATCH, at)
    assert update.terms.keys() == {"ce"}
    return update.terms["ce"]


@pytest.mark.parametrize(("epoch", "alpha"), [(0, 0.2), (1, 0.4), (3, 0.8)])
def test_labels_mix_with_the_past_more_and_more(epoch, alpha):
    objective = build(PSKD())
    objective.past.predictions[[4, 1]] = PAST.half()

    target = (1 - alpha) * torch.eye(3)[[2, 0]] + alpha * PAST
    torch.testing.assert_close(objective.targets(BATCH, moment(epoch)), target)
    torch.testing.assert_close(loss(objective, moment(epoch)), F.cross_entropy(torch.tensor(STUDENT), target))


def test_the_first_epoch_is_plain_cross_entropy():
    torch.testing.assert_close(loss(build(PSKD()), moment(0)), loss(build(CE()), moment(0)))


def test_an_image_that_no_epoch_has_met_has_its_label_alone():
    objective = build(PSKD())
    objective.past.predictions[4] = PAST[0].half()

    first, second = objective.targets(BATCH, moment(3))
    torch.testing.assert_close(first, torch.tensor([0.4, 0.2, 0.4]))
    assert second.tolist() == [1, 0, 0]


def test_predictions_are_kept_by_sample_in_half_precision():
    objective = build(PSKD())
    loss(objective, moment(0))

    expected = torch.zeros(6, 3, dtype=torch.float16)
    expected[[4, 1]] = torch.tensor(STUDENT).softmax(dim=1).half()
    assert objective.past.predictions.dtype == torch.float16
    assert objective.past.predictions.tolist() == expected.tolist()
    assert list(objective.state_dict()) == ["past.predictions"]


def test_predictions_of_other_processes_are_kept_too():
    both = lambda rows: torch.cat((rows, rows + 1))  # noqa: E731 (the other process has the samples that follow)
    objective = build(PSKD(), gather=both)
    loss(objective, moment(0))

    assert (objective.past.predictions.sum(dim=1) > 0).tolist() == [False, True, True, False, True, True]


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_weight_outside_of_zero_to_one_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        PSKD(alpha=alpha)
