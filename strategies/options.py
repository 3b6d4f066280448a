"""Options that several analyses share, each with its limits in one place."""

from __future__ import annotations

from typing import Annotated

import pydantic

from federation.contract import Frozen

FIXED_LEVEL = 0.95  # of the intervals of an analysis without the option `conf_level`
MAX_CONF_LEVEL = 0.999  # an interval of all confidence ends at the smallest and the largest value
ConfLevel = Annotated[float, pydantic.Field(gt=0, le=MAX_CONF_LEVEL)]
Probability = Annotated[float, pydantic.Field(gt=0, lt=1)]


def level_of(options: Frozen) -> float:
    """The confidence level of the intervals of an analysis with these options."""
    return float(options.model_dump(include={"conf_level"}).get("conf_level", FIXED_LEVEL))
