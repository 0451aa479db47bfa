import math

import pytest
import torch

from compressor.errors import Diverged
from compressor.training.losses import Losses


def test_means_are_over_the_updates_that_had_the_term():
    losses = Losses()
    losses.add({"ce": torch.tensor(1.0), "kd": torch.tensor(10.0)}, step=0)
    losses.add({"ce": torch.tensor(4.0)}, step=1)
    losses.read(epoch=0)
    losses.add({"ce": torch.tensor(7.0, dtype=torch.bfloat16)}, step=2)
    losses.read(epoch=0)

    assert losses.means() == {"ce": 4.0, "kd": 10.0}


def test_nothing_noted_has_no_means():
    losses = Losses()
    losses.read(epoch=0)

    assert losses.means() == {}


@pytest.mark.parametrize(("value", "became"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")])
def test_the_first_value_that_is_not_finite_is_named_however_late_it_is_read(value, became):
    losses = Losses()
    for step in range(100, 150):
        losses.add({"ce": torch.tensor(math.nan if step > 130 else 1.0), "kd": torch.tensor(1.0)}, step)
        losses.add({"bss": torch.tensor(value if step >= 130 else 1.0)}, step)

    for _ in range(2):  # asked again, it says it again
        with pytest.raises(Diverged) as caught:
            losses.read(epoch=1)
        assert caught.value.message == f"loss term 'bss' became {became} at step 131 (epoch 2)"
        assert "--lr" in caught.value.hint
    assert losses.means() == {}


def test_what_is_only_noted_may_be_infinite_and_is_left_out_then():
    notes = Losses(refuse=False)
    for step, value in enumerate((1.0, math.nan, 3.0, math.inf)):
        notes.add({"share": torch.tensor(value)}, step)
    notes.add({"never": torch.tensor(math.nan)}, step=4)
    notes.read(epoch=0)

    assert notes.means() == {"share": 2.0}
