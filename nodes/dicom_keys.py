"""How a folder of DICOM files is read, as node.yaml states it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import pydantic

from federation.contract import Frozen, Name

IMAGE = "image"
Keyword = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$")]
Length = Annotated[int, pydantic.Field(ge=1, le=4096)]


class Dicom(Frozen):
    """`shape`: height and width of every image. `columns`: the attributes by their keyword in the
    standard, such as {patient: PatientID}."""

    shape: tuple[Length, Length]
    columns: Mapping[Name, Keyword] = pydantic.Field(min_length=1)

    @pydantic.field_validator("columns")
    @classmethod
    def _without_the_image(cls, columns: Mapping[str, str]) -> Mapping[str, str]:
        if IMAGE in columns:
            raise ValueError(f"{IMAGE!r} is the column of the pixels; give the attribute another")
        return columns
