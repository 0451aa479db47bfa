"""What tests of a method teach by: a network whose answer is known."""

import torch
from torch import nn


class Says(nn.Module):
    """A network that answers with the same logits `[B, K]` whatever it is shown."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, images):
        return self.logits[: len(images)]
