"""The errors that hdh reports to people.

    HdhError                 a person can fix it; shown in one line, without a traceback
    ├── InputError     2     a mistake in a study, a contract, a configuration or an option
    │   ├── StudyError
    │   ├── ContractError
    │   ├── SiteError
    │   └── ExtensionError       a network, analysis or strategy that a site has installed
    ├── DataError      3     the data cannot be read or break their contract
    │   └── SourceError          the source is absent or lacks a column: no row decides it
    ├── RefusalError   4     nodes refused, or too few of them answered: there is no result
    ├── ModelError     5     some analyses have a result, others none; a model cannot be fitted
    ├── SetupError     6     this installation or the hub is not set up correctly
    ├── LedgerError    7     a node's budget ledger was changed, rolled back, or cannot be written
    └── ReceiptError   8     a result, its receipt or its transcript does not match its signatures

The number is the exit code of `hdh`. Any other exception is a bug in hdh and ends with a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class HdhError(Exception):
    exit_code = 1


class InputError(HdhError):
    """Holds one line per problem, and no more than a person would read."""

    exit_code = 2

    def __init__(self, *problems: str) -> None:
        shown = [_shortened(problem) for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            shown.append(f"and {len(problems) - MAX_PROBLEMS} more; correct these first")
        self.problems: Sequence[str] = shown
        super().__init__("\n".join(shown))


MAX_PROBLEMS, MAX_PROBLEM = 50, 3000  # lines, characters of a line


def _shortened(problem: str) -> str:
    """The subject at its beginning and the remedy at its end stay."""
    if len(problem) <= MAX_PROBLEM:
        return problem
    return f"{problem[: MAX_PROBLEM // 2]} ... {problem[-MAX_PROBLEM // 2 :]}"


class StudyError(InputError):
    pass


class ContractError(InputError):
    pass


class SiteError(InputError):
    pass


class ExtensionError(InputError):
    pass


class DataError(HdhError):
    exit_code = 3


class SourceError(DataError):
    pass


class RefusalError(HdhError):
    exit_code = 4


class ModelError(HdhError):
    exit_code = 5


class SetupError(HdhError):
    exit_code = 6


class LedgerError(HdhError):
    exit_code = 7


class ReceiptError(HdhError):
    exit_code = 8
