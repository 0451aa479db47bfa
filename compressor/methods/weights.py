"""Loss weights that may fade over the training."""

from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Field, NonNegativeFloat, RootModel, Tag

_Until = Annotated[float, Field(gt=0, le=1)]


def _form(value: Any) -> str | None:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        return "constant"  # a string may be YAML's reading of 1e-1
    return {2: "fade", 3: "fade until"}.get(len(value)) if isinstance(value, list | tuple) else None


class Weight(
    RootModel[
        Annotated[
            Annotated[NonNegativeFloat, Tag("constant")]
            | Annotated[tuple[NonNegativeFloat, NonNegativeFloat], Tag("fade")]
            | Annotated[tuple[NonNegativeFloat, NonNegativeFloat, _Until], Tag("fade until")],
            Discriminator(
                _form,
                custom_error_type="weight",
                custom_error_message="a weight is a number, [start, end] or [start, end, until]",
            ),
        ]
    ]
):
    """The factor of a loss term: a number, `[start, end]`, or `[start, end, until]`.

    A fading weight goes linearly from `start` at the beginning of the training to `end` when the fraction `until` of
    it has passed (all of it, when not given), and stays there. Written to a recipe the way it was read from one.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    def at(self, elapsed: float) -> float:
        """Return the weight when the fraction `elapsed` of the training, in `[0, 1]`, has passed."""
        if not isinstance(self.root, tuple):
            return self.root
        start, end, until = self.root if len(self.root) == 3 else (*self.root, 1.0)
        return end if elapsed >= until else start + (end - start) * elapsed / until
