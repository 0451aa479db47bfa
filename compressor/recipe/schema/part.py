"""One part of a training that has several."""

from compressor.methods import AnyMethod, Config
from compressor.methods.bss import BSS
from compressor.recipe.schema.training import Training


class Part(Config):
    """A method, and how the student is trained by it, before or after another."""

    method: AnyMethod = BSS()
    train: Training = Training()
