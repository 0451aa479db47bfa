"""Numbers with bounds, which several sections have."""

from typing import Annotated

from pydantic import Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Points = Annotated[float, Field(ge=0, le=100)]
Percentile = Annotated[float, Field(gt=0, lt=100)]
