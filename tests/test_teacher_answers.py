"""Teachers that answer with probabilities, and those whose file tells what images they were trained on."""

import warnings

import pytest
import torch
from PIL import Image
from torch import nn

from compressor.checkpoint import load_teacher
from compressor.errors import UsageError
from compressor.inputs import open_inputs
from compressor.models import build
from compressor.progress import Tell
from compressor.recipe import Data, Teacher

SHAPE = (3, 8, 8)


class Squashed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images):
        return self.inner(images).softmax(1)


@pytest.mark.starts
def test_probabilities_are_taken_on_request_and_stay_differentiable(tmp_path):
    torch.manual_seed(0)
    network = Squashed().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; users' files remain
        torch.jit.trace(network, torch.rand(2, *SHAPE)).save(str(tmp_path / "net.pt"))
    images = torch.rand(5, *SHAPE, requires_grad=True)

    teacher = load_teacher(Teacher(checkpoint=tmp_path / "net.pt", answers="probabilities"))

    logits = teacher.module(images)
    torch.testing.assert_close(logits, network.inner(images).log_softmax(1), atol=1e-5, rtol=1e-5)
    assert torch.autograd.grad(logits.sum(), images)[0].isfinite().all()


def test_weights_answer_with_logits_and_have_nothing_to_take(tmp_path):
    torch.save(build("resnet8", classes=4, input_shape=SHAPE).state_dict(), tmp_path / "net.pt")
    with pytest.raises(UsageError, match="which answers with logits"):
        load_teacher(Teacher(checkpoint=tmp_path / "net.pt", arch="resnet8", answers="probabilities"))


@pytest.fixture
def photos(tmp_path):
    """Four classes of images of 20x20 in colour."""
    for name in "abcd":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (20, 20), (60 * number, 10, 10)).save(tmp_path / f"photos/{name}/{number}.png")
    return f"folder:{tmp_path / 'photos'}"


def kept(folder, shape):
    from compressor.checkpoint import save_student

    path = folder / "student.safetensors"
    save_student(
        path,
        build("resnet8", classes=4, input_shape=shape),
        arch="resnet8",
        classes=4,
        class_names=None,
        input_shape=shape,
        mean=(0.5,) * shape[0],
        std=(0.5,) * shape[0],
        data="folder:/PHOTOS",
    )
    return Teacher(checkpoint=path)


@pytest.mark.parametrize("shape", [(3, 12, 12), (1, 12, 12)])
def test_images_of_a_folder_come_as_the_teacher_was_trained(tmp_path, photos, shape):
    teacher = kept(tmp_path, shape)
    device = torch.device("cpu")
    said = []

    found = open_inputs(Data(name=photos, validation=0), [teacher], said.append, device=device, examine=False)
    assert found.data.input_shape == shape
    assert any("images of 12x12, as the teacher's file says" in line for line in said)

    other = Data(name=photos, validation=0, image_size=16, channels=3)
    silent = Tell(quiet=True)
    assert open_inputs(other, [teacher], silent, device=device, examine=False).data.input_shape == (3, 16, 16)
