"""The contract that nodes, hub and coordinators share; for notebooks, `import federation as fed`.

The names of the Python interface load it when they are first used, so that the contract stays
light and knows nothing of what is above it."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if sys.platform == "win32":
    raise ImportError(
        "hdh-federation runs on Linux; on Windows, install it inside WSL 2 (`wsl --install`),"
        " as docs/install.md describes"
    )

if TYPE_CHECKING:
    from federation.api.comparison import Comparison, compare
    from federation.api.federations import Federation
    from federation.api.hub import AtHub, connect
    from federation.api.plan import StudyPlan
    from federation.api.result import AnalysisResult, Result
    from federation.api.simulation import Simulation, simulate
    from federation.api.study import Study

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
_MODULES = {  # of federation.api, in which each name is defined
    "AnalysisResult": "result",
    "AtHub": "hub",
    "Comparison": "comparison",
    "Federation": "federations",
    "Result": "result",
    "Simulation": "simulation",
    "Study": "study",
    "StudyPlan": "plan",
    "compare": "comparison",
    "connect": "hub",
    "simulate": "simulation",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        with importlib.import_module("federation.loading").uncollected():
            module = importlib.import_module(f"federation.api.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'federation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
