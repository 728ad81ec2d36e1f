"""What every model of cluster.yaml shares: frozen, no unknown fields, no coercion of one type into another."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=63)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=True)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Count = Annotated[int, Field(ge=1, strict=True)]


class Model(BaseModel):
    """Base of all sections. ``validate_default`` so that a default is held to the same rules as a value."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True)


class Secret(Model):
    """A secret that is never written in the file itself, only the name of the variable that holds it."""

    env: str = Field(min_length=1)

    def value(self) -> str | None:
        """The secret, or None while the variable is not set."""
        return os.environ.get(self.env) or None
