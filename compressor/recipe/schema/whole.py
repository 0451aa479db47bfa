"""A recipe: all its sections, and what one of them asks of another."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from compressor.choices import ExportPrecision
from compressor.methods import AnyMethod, Config
from compressor.methods.bss import BSS
from compressor.methods.protocol import refusal
from compressor.recipe.schema.data import Data
from compressor.recipe.schema.export import Export
from compressor.recipe.schema.measures import Bench, Gates, Validate
from compressor.recipe.schema.networks import Student, Teacher
from compressor.recipe.schema.part import Part
from compressor.recipe.schema.tracking import MLflow, Tracking
from compressor.recipe.schema.training import Training
from exporters import EXPORTERS, exporter


class Recipe(Config):
    """One run: a student, from a teacher and data, by a method; what is exported, measured and promised."""

    recipe: Literal[1] = Field(default=1, description="version of this format")
    name: Annotated[str, Field(max_length=100, pattern=r"^\w[\w.+-]*$")] = Field(
        default="run", description="of the run's folder: letters, digits and . _ + -"
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    data: Data = Data()
    teacher: Teacher | None = Field(default=None, description="the only teacher")
    teachers: tuple[Teacher, ...] = Field(
        default=(), description="several teachers, in place of teacher; results are compared with the first"
    )
    student: Student
    method: AnyMethod = BSS()
    train: Training = Training()
    stages: tuple[Part, ...] = Field(
        default=(), description="several trainings one after the other, in place of method and train"
    )
    export: tuple[Export, ...] = (Export(),)
    validation: Validate = Field(default=Validate(), alias="validate")
    bench: Bench = Bench()
    gates: Gates = Gates()
    tracking: tuple[Tracking, ...] = Field(default=(), description="where a run is told of, beside its folder")

    @model_validator(mode="after")
    def _teachers_are_said_once(self) -> Self:
        """Let `teachers` hold them all and `teacher` the first, whichever was written."""
        if self.teacher is not None and self.teachers and self.teacher != self.teachers[0]:
            raise refusal(
                "teacher and teachers are both given", hint="list all in teachers; the first is what is compared with"
            )
        self._keep_teachers(self.teachers or (() if self.teacher is None else (self.teacher,)))
        return self

    def _keep_teachers(self, teachers: tuple[Teacher, ...]) -> None:
        self.__dict__.update(teacher=teachers[0] if teachers else None, teachers=teachers)  # for the model is frozen

    @model_validator(mode="after")
    def _stages_are_said_once(self) -> Self:
        """Let `method` and `train` be those of the last stage, whose student is the run's."""
        if not self.stages:
            return self
        if {"method", "train"} & self.model_fields_set:
            raise refusal("stands beside method or train", key="stages", hint="move these into the last of the stages")
        self.__dict__.update(method=self.stages[-1].method, train=self.stages[-1].train)  # for the model is frozen
        return self

    @model_serializer(mode="wrap")
    def _as_a_recipe_has_it(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write `teacher` or `teachers`, and `stages` or `method` and `train`."""
        values: dict[str, Any] = handler(self)
        values.pop("teacher" if len(self.teachers) > 1 else "teachers", None)
        if not values.get("stages"):
            values.pop("stages", None)
        elif "method" in values:  # which a copy may have changed
            values["stages"] = [*values["stages"][:-1], {key: values.pop(key) for key in ("method", "train")}]
        return values

    @property
    def parts(self) -> "tuple[Recipe, ...]":
        """The recipe of each stage by itself, one after the other; the recipe alone where it has no stages."""
        earlier = ({"method": part.method, "train": part.train} for part in self.stages[:-1])
        return tuple(self.model_copy(update={**each, "stages": ()}) for each in (*earlier, {}))

    def with_training(self, sections: Sequence[Training]) -> Self:
        """Return the recipe with another section `train` for each of its parts."""
        stages = (
            stage.model_copy(update={"train": train}) for stage, train in zip(self.stages, sections, strict=False)
        )
        return self.model_copy(update={"train": sections[-1], "stages": tuple(stages)})

    @property
    def epochs(self) -> int:
        """Those of all stages together."""
        return sum(part.train.epochs for part in self.parts)

    def with_teachers(self, teachers: Sequence[Teacher]) -> Self:
        """Return the recipe with other teachers."""
        changed = self.model_copy()
        changed._keep_teachers(tuple(teachers))
        return changed

    @property
    def trains(self) -> str:
        """What to call the network that is trained: one without a teacher is no student."""
        return "network" if self.teacher is None else "student"

    @field_validator("export")
    @classmethod
    def _exports_differ(cls, exports: tuple[Export, ...]) -> tuple[Export, ...]:
        files = [f"{export.format} {export.precision}{export.variant.replace('.', ' ')}" for export in exports]
        twice = [file for file in files if files.count(file) > 1]
        if twice:
            raise refusal(f"lists {twice[0]} twice, and both would be the same file")
        return exports

    @model_validator(mode="after")
    def _exports_carry_the_quantisation(self) -> Self:
        quantize = self.student.quantize
        if quantize is None:
            return self
        if self.train.compile:
            raise refusal("must be false where student.quantize is set", key="train.compile")
        if "export" not in self.model_fields_set:
            self.__dict__["export"] = (Export(precision=self.usual_precision),)  # for the model is frozen
        for index, target in enumerate(self.export):
            known = target.format in EXPORTERS  # a plug-in is asked when it is loaded
            found = target.unsuited(quantize, exporter(target.format)) if known else None
            if found is not None:
                raise refusal(found[1], key=f"export.{index}.{found[0]}")
        return self

    @property
    def usual_precision(self) -> ExportPrecision:
        """Of an export that states none: what the student was trained for."""
        quantize = self.student.quantize
        return "int8" if quantize is not None and quantize.integer else "fp32"

    @field_validator("tracking")
    @classmethod
    def _trackers_differ(cls, trackers: tuple[Tracking, ...]) -> tuple[Tracking, ...]:
        kinds = [tracker.kind for tracker in trackers]
        twice = [kind for kind in kinds if kinds.count(kind) > 1]
        if twice:
            raise refusal(f"lists {twice[0]} twice")
        return trackers

    @model_validator(mode="after")
    def _what_is_registered_is_exported(self) -> Self:
        for index, tracker in enumerate(self.tracking):
            if (
                isinstance(tracker, MLflow)
                and tracker.register_as
                and "onnx" not in {each.format for each in self.export}
            ):
                raise refusal("needs an export of the format onnx", key=f"tracking.{index}.register")
        return self
