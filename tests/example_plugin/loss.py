"""A loss of one's own: `method: {kind: kd, soft: {kind: example_plugin.loss:Huber}}`."""

from torch import Tensor
from torch.nn import functional as F

from compressor.methods import Config, Setting
from compressor.methods.losses import LogitTerm


class Huber(Config):
    """The Huber distance between logits, a mean over the classes."""

    kind: str
    delta: float = 1.0

    def build(self, setting: Setting) -> LogitTerm:
        def distance(student: Tensor, teacher: Tensor, labels: Tensor | None) -> Tensor:
            return F.huber_loss(student, teacher, reduction="none", delta=self.delta).mean(dim=1)  # [B]

        return distance
