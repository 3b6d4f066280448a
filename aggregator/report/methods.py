"""The methods of a study in sentences, to paste into an article."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aggregator.document import AnalysisDocument, Document
from aggregator.report import words

Options = Mapping[str, Any]
FAMILY = {"gaussian": "linear", "binomial": "logistic", "poisson": "Poisson"}


def _model(text: str) -> Callable[[Options], str]:
    return lambda options: f"{text} of {options['model']}"


def _by(columns: Any) -> str:
    listed = [columns] if isinstance(columns, str) else list(columns or ())
    return f" by {', '.join(listed)}" if listed else ""


def _cox(options: Options) -> str:
    strata = f", stratified by {options['strata']}" if options["strata"] else ""
    ties = options["ties"].capitalize()
    return f"a Cox proportional-hazards model of {options['model']}{strata} ({ties}'s ties)"


def _regression(options: Options) -> str:
    penalty = " with Firth's penalty" if options.get("penalty") == "firth" else ""
    return f"a {FAMILY[options['family']]} regression of {options['model']}{penalty}"


# For each analysis the noun phrase that names the method and its columns.
PHRASES: Mapping[str, Callable[[Options], str]] = {
    "anova": lambda o: f"an analysis of variance of {o['value']} by {o['by']}",
    "boosted_trees": _model("gradient boosted trees"),
    "cox": _cox,
    "crosstab": lambda o: (
        f"a cross-table of {o['rows']} and {o['columns']} with a chi-squared test"
    ),
    "cumulative_incidence": _model("Aalen-Johansen estimates of the cumulative incidence"),
    "describe": lambda o: f"descriptive statistics of {', '.join(o['columns'])}",
    "disproportionality": lambda o: (
        f"measures of disproportionality of {o['drug']} and {o['event']}"
    ),
    "fedavg": _model("a logistic regression, trained by federated averaging,"),
    "fine_gray": lambda o: (
        f"a Fine-Gray model of {o['model']} for the subdistribution hazard of {o['cause']}"
    ),
    "glm": _regression,
    "inequality": lambda o: f"the Gini index and Lorenz curve of {o['value']}{_by(o['by'])}",
    "k_means": lambda o: f"k-means with {o['groups']} groups on {', '.join(o['columns'])}",
    "kaplan_meier": _model("Kaplan-Meier curves"),
    "mantel_haenszel": lambda o: (
        f"the Mantel-Haenszel odds ratio of {o['exposure']} and {o['outcome']} over strata of "
        f"{', '.join(o['strata'])}"
    ),
    "mixed_model": lambda o: (
        f"a linear mixed model of {o['model']} with random effects {o['random']}"
        f" ({o['method'].upper()})"
    ),
    "multiple_imputation": lambda o: (
        f"{_regression(o)} after {o['times']} imputations of {', '.join(o['impute'])} by chained "
        "equations, pooled by Rubin's rules"
    ),
    "pathways": lambda o: f"transitions between the steps of {o['step']}{_by(o['by'])}",
    "pca": lambda o: f"principal components of {', '.join(o['columns'])}",
    "piecewise_exponential": _model("a piecewise-exponential model"),
    "propensity": lambda o: (
        f"inverse probability weighting of {o['treatment']} ({o['estimand'].upper()}), with a "
        f"propensity score from {o['confounders']}"
    ),
    "rates": lambda o: (
        f"incidence rates of {o['events']} over person-time {o['time']}{_by(o['by'])}"
    ),
    "sccs": _model("a self-controlled case series"),
    "surveillance": lambda o: f"weekly counts of {o['week']}{_by(o['by'])} with alarms",
    "train": lambda o: (
        f"a network ({o['network']}) for {o['model']}, trained over {o['rounds']} rounds"
    ),
    "wilcoxon": lambda o: f"a Wilcoxon rank-sum test of {o['value']} by {o['by']}",
}


def paragraph(document: Document) -> str:
    """Sentences on the nodes, the cohort, each analysis and the protection; "" for a document of an
    earlier version, which does not hold what was asked."""
    if document.asked is None:
        return ""
    released = {
        name: analysis
        for name, analysis in document.analyses.items()
        if analysis.status == "released" and analysis.run in PHRASES
    }
    sentences = [_nodes(document), _cohort(document)]
    sentences += [_analysis(name, analysis) for name, analysis in released.items()]
    sentences += [_protection(next(iter(document.analyses.values())).privacy)]
    return " ".join(sentences)


def _nodes(document: Document) -> str:
    p = document.provenance
    return (
        f"We ran a federated study over {len(p['nodes'])} nodes that hold the dataset "
        f"{p['dataset']} (contract version {p['contract_version']}; authorisation "
        f"{p['authorisation']}) with hdh-federation {p['version']}. Rows stayed at their nodes; "
        "each node sent sums, from which the hub computed the results."
    )


def _cohort(document: Document) -> str:
    assert document.asked is not None
    where = document.asked.where
    chosen = f"the rows that satisfy {where}" if where else "all rows of the dataset"
    derived = [f"{name} = {text}" for name, text in document.asked.derive.items()]
    return f"The cohort was {chosen}." + (f" We derived {'; '.join(derived)}." if derived else "")


def _analysis(name: str, analysis: AnalysisDocument) -> str:
    phrase = PHRASES[analysis.run](analysis.options)
    people, missing = analysis.n.get("people"), analysis.n.get("missing")
    on = f" on {people} people" if people is not None else ""
    tables = analysis.tables if analysis.run == "kaplan_meier" else {}
    left_out = f"; {missing} rows with a missing value were left out" if missing else ""
    how = {"exact": "equal to the pooled analysis", "approximate": "an approximation"}.get(
        str(analysis.exactness), "with privacy noise"
    )
    level = words.level_of(analysis) if words.has_intervals(analysis) else ""
    intervals = f", with {level} intervals" if level else ""
    log_rank = ", and compared the groups by the log-rank test" if "log_rank" in tables else ""
    return f"For {name} we computed {phrase}{on}{intervals}{log_rank}{left_out} ({how})."


def _protection(privacy: Mapping[str, Any]) -> str:
    secure = (
        " The hub saw sums over nodes only (secure aggregation)." if privacy["secure_sum"] else ""
    )
    if privacy["mode"] == "exact":
        return f"Numbers on fewer than {privacy['min_cell']} people were withheld.{secure}"
    by = (
        "The nodes shared the noise: their sum, which alone the hub saw, gives each person "
        "differential privacy as long as the assumed number of nodes add their share"
        if privacy["noise"] == "distributed"
        else "Each node added noise that gives each of its people differential privacy"
    )
    return (
        f"{by} (epsilon {privacy['study_epsilon']:g}, delta {privacy['delta']:g} for the study); "
        f"intervals include the noise.{secure}"
    )
