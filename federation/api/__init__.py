"""Studies in Python: `import federation as fed`.

A study is written as a value (`fed.Study`), runs on data frames as nodes (`fed.simulate`) or at a
hub (`fed.connect`), and its result is a set of data frames and figures."""

from federation.api.comparison import Comparison, compare
from federation.api.federations import AtHub, Federation, Simulation, connect, simulate
from federation.api.plan import StudyPlan
from federation.api.result import AnalysisResult, Result
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
