"""Cross entropy with the labels of a batch."""

from torch import Tensor
from torch.nn import functional as F

from compressor.batch import Batch


def label_loss(logits: Tensor, batch: Batch, *, smoothing: float = 0.0) -> Tensor:
    """Return the mean cross entropy of logits `[B, K]` with the batch's labels.

    Of images that are mixed it is the sum of that with both labels, each as the image's share: a cross entropy is
    linear in its target (Zhang et al., ICLR 2018, section 2; Yun et al., ICCV 2019, equation 1).

    Args:
        smoothing: the part of the target that is spread evenly over all classes, in `[0, 1)`.
    """
    if batch.mixed is None:
        return F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    own, other = (
        F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        for labels in (batch.labels, batch.mixed.labels)
    )
    return (batch.mixed.share * own + (1 - batch.mixed.share) * other).mean()
