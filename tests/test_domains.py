"""`benchmarks/domains.py`: another domain is the same images under a corruption that everyone gets alike."""

import importlib.util
from pathlib import Path

import pytest
import torch

from compressor.data import open_data
from compressor.recipe import Data

_SPEC = importlib.util.spec_from_file_location("domains", Path(__file__).parent.parent / "benchmarks" / "domains.py")
domains = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(domains)
CPU = torch.device("cpu")


def test_a_domain_is_a_folder_that_a_target_may_be(tmp_path):
    data = open_data(Data(name="digits", validation=0), device=CPU)
    assert domains.write(data.train, data, "train", "noise", tmp_path / "there", limit=60) == 60
    assert domains.write(data.test, data, "test", "noise", tmp_path / "there", limit=40) == 40

    adapting = open_data(Data(name="digits", target=f"folder:{tmp_path / 'there'}"), device=CPU)
    assert (len(adapting.unlabelled), len(adapting.target)) == (60, 40)
    assert sorted(adapting.target.labels.tolist()) == sorted(data.test.labels[:40].tolist())


@pytest.mark.parametrize("kind", sorted(domains.KINDS))
def test_a_corruption_follows_from_kind_split_and_number_alone(kind, images):
    image = images(1, channels=3, size=32)[0]
    first = domains.corrupted(image, kind, "train", 7)
    assert (first.shape, first.dtype) == ((32, 32, 3), torch.uint8)
    assert torch.equal(first, domains.corrupted(image, kind, "train", 7))
    assert (first.float() / 255 - image.permute(1, 2, 0)).abs().max() > 0.05
    if kind == "noise":
        assert not torch.equal(first, domains.corrupted(image, kind, "train", 8))


def test_contrast_keeps_the_mean_and_three_tenths_of_the_distance_from_it(images):
    image = images(1, channels=3, size=32)[0]
    found = domains.corrupted(image, "contrast", "train", 0).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(found, image.mean() + 0.3 * (image - image.mean()), atol=0.5 / 255, rtol=0)
