"""How the images of an ONNX file from elsewhere are normalised, as a user says it."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Normalisation:
    """What a user says of a graph: how its images are prepared, or that the best may be taken, and which output counts.

    `mean` and `std` have one value a channel, red first, also where the graph takes blue first.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalize: Literal["given", "auto"] = "given"
    channel_order: Literal["rgb", "bgr"] = "rgb"
    output: str | None = None

    @property
    def bgr(self) -> bool:
        return self.channel_order == "bgr"


UNSTATED = Normalisation()
