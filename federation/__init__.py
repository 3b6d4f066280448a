"""The contract that nodes, hub and coordinators share; for notebooks, `import federation as fed`.

The names of the Python interface load it when they are first used, so that the contract stays
light and knows nothing of what is above it."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from federation.api import (
        AnalysisResult,
        AtHub,
        Comparison,
        Federation,
        Result,
        Simulation,
        Study,
        StudyPlan,
        compare,
        connect,
        simulate,
    )

__all__ = [
    "AnalysisResult",
    "AtHub",
    "Comparison",
    "Federation",
    "Result",
    "Simulation",
    "Study",
    "StudyPlan",
    "compare",
    "connect",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("federation.api"), name)
    raise AttributeError(f"module 'federation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
