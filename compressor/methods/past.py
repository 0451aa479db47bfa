"""What the student said of each training image when it last met it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class PastPredictions(nn.Module):
    """The latest prediction of each training image, two bytes a class, on the training device and in the run's state.

    It is what the student, in training mode, said of the image as it was augmented then.
    """

    predictions: Tensor  # [N, K] float16, a row of zeros where there is none

    def __init__(self, samples: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("predictions", torch.zeros(samples, classes, dtype=torch.float16))

    def recall(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probabilities of images, `[B, K]` float32, and of which there are any, `[B, 1]` bool."""
        past = self.predictions[indices].float()
        return past, past.sum(dim=1, keepdim=True) > 0

    @torch.no_grad()
    def remember(self, indices: Tensor, logits: Tensor, gather: Callable[[Tensor], Tensor]) -> None:
        """Note the predictions of all processes: in the next epoch an image may come to another one.

        Args:
            gather: see `Setting.gather`.
        """
        self.predictions[gather(indices)] = gather(logits.detach().softmax(dim=1)).to(self.predictions.dtype)
