"""Numbers as tables write them."""

import pytest

from compressor.report.numbers import count, megabytes, milliseconds, number, signed, times


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (number(0.12345, ".3f"), "0.123"),
        (number(None, ".3f"), "–"),
        (signed(-0.5), "−0.50"),
        (count(999), "999"),
        (count(1_730_000), "1.73 M"),
        (count(75_291), "75.29 k"),
        (count(17_560_000_000), "17.56 G"),
        (count(None), "–"),
        (megabytes(2_345_678), "2.35"),
        (megabytes(100_000), "0.10"),
        (megabytes(61_234), "0.0612"),  # two digits would say 0.06
        (milliseconds(0.0312), "0.031"),
        (milliseconds(9.994), "9.99"),
        (milliseconds(12.345), "12.3"),
        (milliseconds(None), "–"),
        (times(2), "2.0×"),
        (times(0.104), "0.10×"),
        (times(None), "–"),
    ],
)
def test_a_number_is_written_in_one_way(shown, text):
    assert shown == text
