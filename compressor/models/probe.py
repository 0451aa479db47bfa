"""Does a network that we did not write take the images and give logits?"""

import torch
from torch import Tensor, nn

from compressor.errors import UsageError
from compressor.models.cost import evaluating
from compressor.plugins import told

Shape = tuple[int, int, int]
OTHER_SIZE = "choose a network for small images, such as resnet20, or another size with data.image_size"


def check_logits(network: nn.Module, arch: str, classes: int, input_shape: Shape, *, hint: str) -> None:
    """Run two images of zeros in evaluation mode, on the network's device; leaves the network as found.

    Raises:
        UsageError: the network fails on them, or gives anything but `[2, classes]` floating-point logits.
    """
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    with evaluating(network), torch.no_grad():
        try:
            logits = network(torch.zeros(2, *input_shape, device=device))
        except Exception as error:
            raise refusal(arch, input_shape, error, hint=hint) from error
    if not isinstance(logits, Tensor):
        raise UsageError(f"{arch} returns a {type(logits).__name__} where one tensor of logits is needed", hint=hint)
    if logits.shape != (2, classes) or not logits.is_floating_point():
        found = f"{logits.dtype} {list(logits.shape)}".removeprefix("torch.")
        raise UsageError(f"{arch} returns {found} for 2 images where [2, {classes}] logits are needed", hint=hint)


def refusal(arch: str, input_shape: Shape, error: Exception, *, hint: str) -> UsageError:
    """Return what to raise when a network cannot be made for, or fails on, images of this shape."""
    return UsageError(f"{arch} cannot take images of {'x'.join(map(str, input_shape))}: {told(error)}", hint=hint)
