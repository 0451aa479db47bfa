"""Whom a recipe tells of a run."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from compressor.methods import Config
from compressor.methods.protocol import refusal

# A user before the host of an address, or a key of its query or fragment that names a secret.
_SECRET = re.compile(
    r"^[^/?#]*:(//)?[^/?#]*@|[?&;#][^=&;]*(user|pass|pwd|token|secret|key|auth)[^=&;]*=", re.IGNORECASE
)


class TensorBoard(Config):
    """Curves and parameters as event files, for `tensorboard --logdir`."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: Path | None = Field(default=None, description="of the event files; null: tensorboard/ in the run folder")


class MLflow(Config):
    """A run on an MLflow server. Passwords and tokens come from MLflow's own environment variables alone."""

    kind: Literal["mlflow"] = "mlflow"
    uri: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="of the server, such as http://127.0.0.1:5000; null: $MLFLOW_TRACKING_URI"
    )
    experiment: Annotated[str, Field(min_length=1)] = "compress"
    register_as: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")] | None = Field(
        default=None,
        alias="register",
        description="registered model that an ONNX file becomes a version of, where all gates hold",
    )
    file: Annotated[str, Field(min_length=1, pattern=r"^[^/]+\.onnx$")] | None = Field(
        default=None, description="the ONNX file to register, such as student.int8.onnx; null: the first"
    )

    @field_validator("uri")
    @classmethod
    def _holds_no_secret(cls, uri: str | None) -> str | None:
        if uri is not None and _SECRET.search(uri):
            raise refusal(
                "must not hold a user or a password",
                hint="export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN; or the "
                "whole address as MLFLOW_TRACKING_URI",
                secret=True,
            )
        return uri

    @model_validator(mode="after")
    def _a_file_is_for_a_model(self) -> Self:
        if self.file is not None and self.register_as is None:
            raise refusal("is the file to register, and register names no model", key="file")
        return self


Tracking = Annotated[TensorBoard | MLflow, Field(discriminator="kind")]
