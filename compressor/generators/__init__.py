"""Networks that make images. To add one: its module, then its line in `GENERATORS`."""

from typing import Annotated

from pydantic import BaseModel

from compressor.generators.dcgan import DCGAN
from compressor.generators.embeddings import ClassEmbeddings, Superposition, superposition
from compressor.generators.evolution import Evolution, Score
from compressor.generators.mlp import MLP
from compressor.generators.protocol import Border, End, Generator, ImageKind
from compressor.generators.upsample import Upsample, UpsampleLarge
from compressor.kinds import Kinds

GENERATORS: dict[str, type[BaseModel]] = {
    "upsample": Upsample,
    "upsample-large": UpsampleLarge,
    "dcgan": DCGAN,
    "mlp": MLP,
}
AnyGenerator = Annotated[Generator, Kinds(GENERATORS, "mypackage.generators:Mine", ("build", "noise"))]

__all__ = [
    "DCGAN",
    "GENERATORS",
    "MLP",
    "AnyGenerator",
    "Border",
    "ClassEmbeddings",
    "End",
    "Evolution",
    "Generator",
    "ImageKind",
    "Score",
    "Superposition",
    "Upsample",
    "UpsampleLarge",
    "superposition",
]
