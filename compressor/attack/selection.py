"""Which images to walk to the boundary, and towards which class."""

import torch
from torch import Tensor


def select_bases(teacher_logits: Tensor, student_logits: Tensor, labels: Tensor, size: int) -> Tensor:
    """Return indices `[N <= size]` of the images worth attacking, the most telling first.

    Both networks are right about them, and their predictions over the other classes differ most: the score is
    `sum_{k != label} (q_teacher[k] - q_student[k])²` at temperature 1, as in the authors' code. Equal scores keep the
    order of the batch.
    """
    right = (teacher_logits.argmax(dim=1) == labels) & (student_logits.argmax(dim=1) == labels)
    difference = teacher_logits.detach().float().softmax(dim=1) - student_logits.detach().float().softmax(
        dim=1
    )  # [B, K]
    score = difference.scatter(1, labels.unsqueeze(1), 0.0).square().sum(dim=1)
    order = score.masked_fill(~right, -1.0).argsort(descending=True, stable=True)[:size]
    return order[right[order]]


def sample_targets(teacher_logits: Tensor, base: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one target class an image, `[B]`, with probability `q[k] / (1 - q[base])` of the teacher's prediction `q`.

    The base class is masked before the softmax, so a teacher that is sure to the last bit still has other classes.
    """
    others = teacher_logits.detach().float().scatter(1, base.unsqueeze(1), -torch.inf)
    return torch.multinomial(others.softmax(dim=1), 1, generator=generator).squeeze(1)
