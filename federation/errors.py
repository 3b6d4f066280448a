"""Every error that a person can meet.

    HdhError                 a person can fix it: shown in one line, without a traceback
    ├── InputError     2     what was written is wrong: a study, a contract, a site, a flag
    │   ├── StudyError
    │   ├── ContractError
    │   └── SiteError
    ├── DataError      3     the data cannot be read, or break their contract
    │   └── SourceError          the source itself is not there, or not as the contract names it: no row decides that
    ├── RefusalError   4     nodes refused, or too few answered
    ├── ModelError     5     the data arrived, and the model cannot be fitted to them
    ├── SetupError     6     this installation, or this hub, is not in order
    └── LedgerError    7     a node's budget ledger was changed, rolled back, or cannot be written

The number is the exit code of `hdh`. Anything else that is raised is a bug of ours, and crashes.
"""

from __future__ import annotations

from collections.abc import Sequence


class HdhError(Exception):
    exit_code = 1


class InputError(HdhError):
    exit_code = 2

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


class StudyError(InputError):
    pass


class ContractError(InputError):
    pass


class SiteError(InputError):
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
