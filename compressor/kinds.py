"""Parts of a recipe, and open sets of them: what `kind` names is one of ours, or `package.module:name`, the user's own.

A class of the user's own is imported only where the recipe is the user's own: validation says so by its context,
`{"trusted": True}` (`recipe.load(trusted=True)`). Elsewhere, as in a run folder that may come from anyone, the section
is kept as it is written, in a `NotLoaded`, which can be shown and stored, and refuses to be built.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from compressor.errors import UsageError
from compressor.plugins import is_plugin, load_plugin

PLUGIN = "package.module:name"


class Config(BaseModel):
    """A part of a recipe: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def refusal(message: str, *, key: str = "", hint: str = "", secret: bool = False) -> PydanticCustomError:
    """Return an error to raise in a validator: `message` goes on after the dotted name, `key` is relative to it."""
    return PydanticCustomError("recipe", "{message}", {"message": message, "key": key, "hint": hint, "secret": secret})


class NotLoaded(BaseModel):
    """A section whose `kind` is a plug-in's, in a recipe that is not the user's own: values and no code."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str

    def build(self, setting: object) -> Any:  # noqa: ARG002 (the contract's signature)
        raise UsageError(
            f"{self.kind} is code of a plug-in, which a stored recipe does not make us import",
            hint="name it in a recipe or an option of your own",
        )


@dataclass(frozen=True, eq=False)
class Kinds:
    """The type of a section of a recipe whose `kind` says which class it is: `Annotated[Protocol, Kinds(...)]`.

    `example` is a name to show where one is not a plug-in's; `must` are the attributes that a class has to have;
    `unloaded` holds the section of a plug-in that is not imported.
    """

    builtin: Mapping[str, type[BaseModel]]
    example: str
    must: tuple[str, ...] = ("build",)
    unloaded: type[NotLoaded] = NotLoaded

    def __get_pydantic_core_schema__(self, _source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices: dict[Any, CoreSchema] = {name: handler.generate_schema(one) for name, one in self.builtin.items()}
        choices[PLUGIN] = core_schema.with_info_plain_validator_function(
            self._plugged, json_schema_input_schema=core_schema.dict_schema()
        )
        return core_schema.tagged_union_schema(choices, discriminator=kind)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return the built-in sections by their kind; what a plug-in takes is its own affair."""
        *ours, _ = handler(schema)["oneOf"]
        plugged = {
            "type": "object",
            "properties": {"kind": {"type": "string", "pattern": r"^\w+(\.\w+)*:\w+$"}},
            "required": ["kind"],
            "description": f"{PLUGIN}, a class of your own",
        }
        mapping = {name: one["$ref"] for name, one in zip(self.builtin, ours, strict=True)}
        return {"oneOf": [*ours, plugged], "discriminator": {"propertyName": "kind", "mapping": mapping}}

    def _plugged(self, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, BaseModel):
            return value
        if not (info.context or {}).get("trusted"):
            return self.unloaded.model_validate(value)
        try:
            found = load_plugin(value["kind"], example=self.example)
        except UsageError as error:
            raise refusal(error.message, key="kind", hint=error.hint or "") from error
        wrong = _unfit(found, self.must)
        if wrong:
            raise refusal(f"{value['kind']} {wrong}", key="kind", hint="see docs/methods.md")
        return found.model_validate_json(json.dumps(value), strict=True, context=info.context)


def kind(value: Any) -> str | None:
    """Return which class a section is of, None where it does not say."""
    given = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return PLUGIN if isinstance(given, str) and is_plugin(given) else given


def _unfit(found: Any, must: Sequence[str]) -> str | None:
    """Return what keeps an object from being a section of a recipe, None where nothing does."""
    if not (isinstance(found, type) and issubclass(found, Config)):
        return "is not a class derived from compressor.methods.Config"
    field = found.model_fields.get("kind")
    if field is None or field.annotation is not str:
        return "has no field 'kind: str', which holds the name that it was asked for by"
    return next((f"has no {name!r}" for name in must if not hasattr(found, name)), None)
