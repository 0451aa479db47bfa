"""Where batches come from: labelled images, an unlabelled stream beside them, or nothing."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.batch import Batch
from compressor.training.sources import Source, empty_batches, in_epochs_of, with_unlabelled


def numbered(steps):
    """A source whose images hold the epoch and the number of their batch."""

    def batches(epoch, start):
        for number in range(start, steps):
            label = torch.tensor([100 * epoch + number])
            yield Batch(torch.zeros(1, 3, 2, 2), label, label)

    return Source(batches, steps, steps)


def test_empty_batches_have_no_images_and_resume():
    source = empty_batches(5, (3, 8, 8), 16)
    assert (source.steps, source.images) == (5, 80)
    assert [tuple(batch.images.shape) for batch in source.batches(0, 2)] == [(0, 3, 8, 8)] * 3
    assert all(len(batch.labels) == len(batch.indices) == 0 for batch in source.batches(7, 0))
    assert [batch.size for batch in source.batches(0, 3)] == [16, 16]


@settings(deadline=None)
@given(steps=st.integers(1, 7), passed=st.integers(1, 9), epoch=st.integers(0, 5), start=st.integers(0, 6))
def test_the_unlabelled_stream_goes_round_without_regard_for_epochs(steps, passed, epoch, start):
    def passes(number, first):
        return (torch.tensor([number, place]) for place in range(first, passed))

    source = with_unlabelled(numbered(steps), passes, passed)

    found = [
        (int(batch.labels), tuple(batch.unlabelled.tolist())) for batch in source.batches(epoch, min(start, steps))
    ]

    expected = [
        (100 * epoch + number, divmod(epoch * steps + number, passed)) for number in range(min(start, steps), steps)
    ]
    assert found == expected
    assert (source.steps, source.images) == (steps, steps)


@given(steps=st.integers(1, 9), passed=st.integers(1, 7), epoch=st.integers(0, 5), start=st.integers(0, 8))
def test_epochs_of_a_length_of_their_own_go_round_without_a_gap(steps, passed, epoch, start):
    source = in_epochs_of(steps, numbered(passed))

    found = [int(batch.labels) for batch in source.batches(epoch, min(start, steps))]

    every = (divmod(epoch * steps + number, passed) for number in range(min(start, steps), steps))
    assert found == [100 * number + place for number, place in every]
    assert (source.steps, source.images) == (steps, steps)  # a numbered batch has one image
