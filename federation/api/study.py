"""A study written in Python: a frozen value that becomes study.yaml, a result or a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from federation import errors, yaml_source
from federation import study as studies
from federation.api import yaml_text
from federation.api.spoken import spoken
from federation.api.verbs import Verbs
from federation.yaml_source import Source

if TYPE_CHECKING:
    from federation.api.federations import Federation
    from federation.api.plan import StudyPlan
    from federation.api.result import Result

ORDER = (
    "study", "title", "question", "purpose", "authorisation", "coordinator", "dataset", "datasets",
    "link", "min_nodes", "cohort", "privacy", "analyses",
)  # fmt: skip
# A study that runs on the caller's own rows asks nobody, and need not say why or by which right.
ON_OWN_ROWS: Mapping[str, Any] = {
    "purpose": {"interest": "public", "category": "research"},
    "authorisation": {"reference": "own rows", "expires": "9999-12-31"},
}


@dataclass(frozen=True, init=False, repr=False)
class Study(Verbs):
    """A study of one dataset, to which each verb adds an analysis.

    >>> import federation as fed
    >>> study = fed.Study("dialysis", mode="exact", where="age >= 18").cox(
    ...     "model", "Surv(time, event) ~ age", strata="centre"
    ... )
    >>> list(study.values["analyses"])
    ['model']

    `values`: the content of study.yaml. `text`: of the file that it was read from, while the study
    is unchanged."""

    values: Mapping[str, Any]
    text: str | None = field(default=None, compare=False)

    def __init__(
        self,
        name: str,
        *,
        dataset: str | None = None,
        datasets: Mapping[str, Any] | None = None,
        link: Mapping[str, Any] | None = None,
        title: str | None = None,
        question: str | None = None,
        purpose: str | None = None,
        authorisation: Mapping[str, Any] | None = None,
        coordinator: str | None = None,
        min_nodes: int | None = None,
        where: str | None = None,
        derive: Mapping[str, Any] | None = None,
        codes: Mapping[str, Sequence[str]] | None = None,
        mode: Literal["exact", "dp"] | None = None,
        epsilon: float | None = None,
        delta: float | None = None,
        noise: Literal["node", "distributed"] | None = None,
        secure_sum: bool | Mapping[str, int] | None = None,
        min_cell: int | None = None,
    ) -> None:
        """The keys of study.yaml, those of `cohort` and `privacy` among them.

        `dataset`: by default the study's name. `purpose`: its category, such as research.
        `authorisation`: its reference, and the day on which it expires. A study that runs on the
        caller's own rows needs neither of these two."""
        cohort = _given(codes=codes, derive=derive, where=where)
        privacy = _given(
            mode=mode,
            epsilon=epsilon,
            delta=delta,
            noise=noise,
            secure_sum=secure_sum,
            min_cell=min_cell,
        )
        values = _given(
            study=name,
            title=title or name,
            question=question or title or name,
            purpose=purpose and {"interest": "public", "category": purpose},
            authorisation=authorisation,
            coordinator=coordinator,
            dataset=dataset if dataset or datasets else name,
            datasets=datasets,
            link=link,
            min_nodes=min_nodes,
            cohort=cohort or None,
            privacy=privacy or None,
        )
        self._set(values)

    @classmethod
    @spoken()
    def read(cls, path: Path | str) -> Study:
        """The study of a file, which `write` gives back byte for byte."""
        _, source = studies.load(Path(path))
        return cls._of(source.values, Path(path).read_bytes().decode())

    @classmethod
    def _of(cls, values: Mapping[str, Any], text: str | None = None) -> Self:
        study = cls.__new__(cls)
        study._set(values, text)
        return study

    def _set(self, values: Mapping[str, Any], text: str | None = None) -> None:
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "text", text)

    @property
    def name(self) -> str:
        return str(self.values["study"])

    @spoken()
    def add(self, name: str, run: str, **options: Any) -> Self:
        """The study with one more analysis. StudyError if it has one of this name already."""
        analyses = self.values.get("analyses", {})
        if name in analyses:
            raise errors.StudyError(
                f"analyses.{name}: the study has an analysis of this name already; give this one "
                "another name"
            )
        return self._with(analyses={**analyses, name: {"run": run, **options}})

    def _with(self, **changes: Any) -> Self:
        values = {**self.values, **changes}
        return self._of({key: values[key] for key in ORDER if key in values})

    def checked(self, *, own_rows: bool = False) -> tuple[studies.Study, Source]:
        """The study as the nodes read it, and its source for messages. StudyError names every
        mistake. `own_rows`: purpose and authorisation may be missing."""
        values = self.values
        if not values.get("analyses"):
            raise errors.StudyError(
                f"study {self.name} has no analysis yet: add one, as in"
                f" {self.name.replace('-', '_')}.describe('ages', ['age'])"
            )
        if own_rows:
            values = {**ON_OWN_ROWS, **values}
        text = yaml_text.write(values)
        read = yaml_source.parse(text, name=f"study {self.name}", error=errors.StudyError)
        source = Source(f"study {self.name}", read.values, {})  # nobody sees the lines of `text`
        return studies.build(source), source

    @spoken()
    def write(self, path: Path | str | None = None) -> str:
        """The text of study.yaml, also into the file `path`. What `hdh study submit` signs of this
        file is what `run` signs at a hub."""
        self.checked()
        text = self.text if self.text is not None else yaml_text.write(self.values)
        if path is not None:
            Path(path).write_bytes(text.encode())
        return text

    @spoken()
    def run(self, federation: Federation, **options: Any) -> Result:
        """The result of the study on a simulation or at a hub."""
        return _asked(federation).run(self, **options)

    @spoken()
    def plan(self, federation: Federation) -> StudyPlan:
        """What the study costs at each node, and who would refuse. Nothing runs."""
        return _asked(federation).plan(self)

    def __repr__(self) -> str:
        analyses = ", ".join(
            f"{name}: {entry.get('run')}" for name, entry in self.values.get("analyses", {}).items()
        )
        return f"<Study {self.name}: {analyses or 'no analysis yet'}>"

    def _repr_html_(self) -> str:
        return f"<pre>{escape(yaml_text.write(self.values))}</pre>"


def _asked(federation: Federation) -> Federation:
    """InputError if it is none."""
    if not hasattr(federation, "plan"):
        raise errors.InputError(
            f"a study runs on nodes, and not on a {type(federation).__name__}: give what"
            " fed.simulate or fed.connect returns"
        )
    return federation


def _given(**values: Any) -> dict[str, Any]:
    """The values that are given."""
    return {key: value for key, value in values.items() if value is not None}
