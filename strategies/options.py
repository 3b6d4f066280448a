"""Options that several analyses share, each with its limits in one place."""

from __future__ import annotations

from typing import Annotated

import pydantic

MAX_CONF_LEVEL = 0.999  # an interval of all confidence ends at the smallest and the largest value
ConfLevel = Annotated[float, pydantic.Field(gt=0, le=MAX_CONF_LEVEL)]
Probability = Annotated[float, pydantic.Field(gt=0, lt=1)]
