"""A verb for each analysis: `study.cox("model", "Surv(time, event) ~ age")`.

A verb takes the name of the analysis in the study, the values that it needs, and as keywords its
options, `results`, `budget` and `version`, as docs/analyses.md lists them. A test compares the
verbs with the registry of analyses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

from federation.api.spoken import spoken
from federation.language import tr

# What other tools call an analysis.
OTHER_NAMES = {
    "coxph": "cox", "km": "kaplan_meier", "lm": "glm", "lmer": "mixed_model", "logistic": "glm",
    "logit": "glm", "mice": "multiple_imputation", "ols": "glm", "poisson": "glm",
    "regression": "glm", "summary": "describe", "survfit": "kaplan_meier", "table": "crosstab",
    "t_test": "anova", "xgboost": "boosted_trees",
}  # fmt: skip


class Verbs(ABC):
    @abstractmethod
    def add(self, name: str, run: str, **options: Any) -> Self:
        """The study with one more analysis, of any kind."""

    if not TYPE_CHECKING:  # a type checker knows that there is no other attribute

        @spoken()
        def __getattr__(self, name: str) -> Any:
            """AttributeError with the verbs, for a name that is none."""
            if name.startswith("_"):
                raise AttributeError(name)
            verbs = sorted(verb for verb in vars(Verbs) if verb[0] != "_" and verb != "add")
            close = (
                [OTHER_NAMES[name]] if name in OTHER_NAMES else get_close_matches(name, verbs, 1)
            )
            if close:
                text = tr("a study has no analysis {0}; did you mean {1}?")
                raise AttributeError(text.format(repr(name), repr(close[0])))
            text = tr("a study has no analysis {0}; the analyses are {1}")
            raise AttributeError(text.format(repr(name), ", ".join(verbs)))

    def anova(self, name: str, value: str, by: str, **options: Any) -> Self:
        """Means of a number by group, and their analysis of variance."""
        return self.add(name, "anova", value=value, by=by, **options)

    def boosted_trees(self, name: str, model: str, **options: Any) -> Self:
        """Gradient boosted trees for a yes-or-no outcome or a number."""
        return self.add(name, "boosted_trees", model=model, **options)

    def cox(self, name: str, model: str, **options: Any) -> Self:
        """Cox's proportional hazards, with the pooled partial likelihood."""
        return self.add(name, "cox", model=model, **options)

    def crosstab(self, name: str, rows: str, columns: str, **options: Any) -> Self:
        """A cross-table of two columns, with tests."""
        return self.add(name, "crosstab", rows=rows, columns=columns, **options)

    def cumulative_incidence(self, name: str, model: str, **options: Any) -> Self:
        """Cumulative incidence of competing causes (Aalen-Johansen)."""
        return self.add(name, "cumulative_incidence", model=model, **options)

    def describe(self, name: str, columns: Sequence[str], **options: Any) -> Self:
        """Counts, means, spread and quantiles of columns."""
        return self.add(name, "describe", columns=columns, **options)

    def disproportionality(self, name: str, drug: str, event: str, **options: Any) -> Self:
        """Signals of drug safety from spontaneous reports."""
        return self.add(name, "disproportionality", drug=drug, event=event, **options)

    def fedavg(self, name: str, model: str, **options: Any) -> Self:
        """A logistic model by federated averaging."""
        return self.add(name, "fedavg", model=model, **options)

    def fine_gray(self, name: str, model: str, cause: str, **options: Any) -> Self:
        """Subdistribution hazards of one cause among competing ones (Fine and Gray)."""
        return self.add(name, "fine_gray", model=model, cause=cause, **options)

    def glm(self, name: str, model: str, **options: Any) -> Self:
        """A generalised linear model: gaussian, binomial or poisson."""
        return self.add(name, "glm", model=model, **options)

    def inequality(self, name: str, value: str, **options: Any) -> Self:
        """Gini, Lorenz curve, quantiles and top shares of a number."""
        return self.add(name, "inequality", value=value, **options)

    def k_means(self, name: str, columns: Sequence[str], **options: Any) -> Self:
        """Groups of alike people by k-means."""
        return self.add(name, "k_means", columns=columns, **options)

    def kaplan_meier(self, name: str, model: str, **options: Any) -> Self:
        """Survival curves and the log-rank test."""
        return self.add(name, "kaplan_meier", model=model, **options)

    def mantel_haenszel(
        self, name: str, exposure: str, outcome: str, strata: Sequence[str], **options: Any
    ) -> Self:
        """A common odds ratio over strata (Mantel and Haenszel)."""
        return self.add(
            name, "mantel_haenszel", exposure=exposure, outcome=outcome, strata=strata, **options
        )

    def mixed_model(self, name: str, model: str, **options: Any) -> Self:
        """A linear model with random effects of people or sites."""
        return self.add(name, "mixed_model", model=model, **options)

    def multiple_imputation(
        self, name: str, model: str, impute: Sequence[str], **options: Any
    ) -> Self:
        """A model over multiply imputed missing values."""
        return self.add(name, "multiple_imputation", model=model, impute=impute, **options)

    def pathways(self, name: str, step: str, time: str, **options: Any) -> Self:
        """Steps of care: their transitions, times and indicators."""
        return self.add(name, "pathways", step=step, time=time, **options)

    def pca(self, name: str, columns: Sequence[str], **options: Any) -> Self:
        """Principal components of columns."""
        return self.add(name, "pca", columns=columns, **options)

    def piecewise_exponential(self, name: str, model: str, **options: Any) -> Self:
        """Hazard ratios with a baseline that is constant between cuts."""
        return self.add(name, "piecewise_exponential", model=model, **options)

    def propensity(self, name: str, treatment: str, confounders: str, **options: Any) -> Self:
        """A treatment effect by inverse propensity weights."""
        return self.add(name, "propensity", treatment=treatment, confounders=confounders, **options)

    def rates(self, name: str, events: str, time: str, **options: Any) -> Self:
        """Incidence over person-time, ratios and standardised rates."""
        return self.add(name, "rates", events=events, time=time, **options)

    def sccs(self, name: str, model: str, **options: Any) -> Self:
        """A self-controlled case series."""
        return self.add(name, "sccs", model=model, **options)

    def surveillance(self, name: str, week: str, **options: Any) -> Self:
        """Weekly counts with alarms of outbreaks."""
        return self.add(name, "surveillance", week=week, **options)

    def train(self, name: str, model: str, **options: Any) -> Self:
        """A neural network, trained over the nodes."""
        return self.add(name, "train", model=model, **options)

    def wilcoxon(self, name: str, value: str, by: str, **options: Any) -> Self:
        """Wilcoxon's rank-sum test of a number in two groups."""
        return self.add(name, "wilcoxon", value=value, by=by, **options)
