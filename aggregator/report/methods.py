"""The methods of a study in sentences, to paste into an article."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from aggregator.document import AnalysisDocument, Document
from aggregator.report import words
from federation.language import tr

Options = Mapping[str, Any]


def _family(family: str) -> str:
    names = {"gaussian": tr("linear"), "binomial": tr("logistic"), "poisson": tr("Poisson")}
    return names[family]


def _listed(columns: Any) -> str:
    return columns if isinstance(columns, str) else ", ".join(map(str, columns or ()))


def _by(columns: Any) -> str:
    return tr(" by {columns}").format(columns=_listed(columns)) if columns else ""


def _cox(options: Options) -> str:
    strata = options["strata"]
    return tr("a Cox proportional-hazards model of {model}{strata} ({ties}'s ties)").format(
        model=options["model"],
        strata=tr(", stratified by {columns}").format(columns=_listed(strata)) if strata else "",
        ties=options["ties"].capitalize(),
    )


def _regression(options: Options) -> str:
    penalty = tr(" with Firth's penalty") if options.get("penalty") == "firth" else ""
    return tr("a {family} regression of {model}{penalty}").format(
        family=_family(options["family"]), model=options["model"], penalty=penalty
    )


def _imputed(options: Options) -> str:
    return tr(
        "{model} after {times} imputations of {columns} by chained equations, pooled by Rubin's "
        "rules"
    ).format(model=_regression(options), times=options["times"], columns=_listed(options["impute"]))


def _pathways(o: Options) -> str:
    return tr("transitions between the steps of {step}{by}").format(step=o["step"], by=_by(o["by"]))


def _propensity(o: Options) -> str:
    return tr(
        "inverse probability weighting of {treatment} ({estimand}), with a propensity score from "
        "{confounders}"
    ).format(**dict(o) | {"estimand": o["estimand"].upper()})


def _phrases() -> dict[str, str]:
    """For each analysis whose phrase has its options as places."""
    return {
        "anova": tr("an analysis of variance of {value} by {by}"),
        "boosted_trees": tr("gradient boosted trees of {model}"),
        "crosstab": tr("a cross-table of {rows} and {columns} with a chi-squared test"),
        "cumulative_incidence": tr(
            "Aalen-Johansen estimates of the cumulative incidence of {model}"
        ),
        "describe": tr("descriptive statistics of {columns}"),
        "disproportionality": tr("measures of disproportionality of {drug} and {event}"),
        "fedavg": tr("a logistic regression, trained by federated averaging, of {model}"),
        "fine_gray": tr("a Fine-Gray model of {model} for the subdistribution hazard of {cause}"),
        "k_means": tr("k-means with {groups} groups on {columns}"),
        "kaplan_meier": tr("Kaplan-Meier curves of {model}"),
        "mantel_haenszel": tr(
            "the Mantel-Haenszel odds ratio of {exposure} and {outcome} over strata of {strata}"
        ),
        "mixed_model": tr(
            "a linear mixed model of {model} with random effects {random} ({method})"
        ),
        "pca": tr("principal components of {columns}"),
        "piecewise_exponential": tr("a piecewise-exponential model of {model}"),
        "sccs": tr("a self-controlled case series of {model}"),
        "train": tr("a network ({network}) for {model}, trained over {rounds} rounds"),
        "wilcoxon": tr("a Wilcoxon rank-sum test of {value} by {by}"),
    }


def _of_groups(o: Options, run: str) -> str:
    """The phrases that may have a grouping column."""
    texts = {
        "inequality": tr("the Gini index and Lorenz curve of {value}{by}"),
        "rates": tr("incidence rates of {events} over person-time {time}{by}"),
        "surveillance": tr("weekly counts of {week}{by} with alarms"),
    }
    return texts[run].format(**dict(o) | {"by": _by(o["by"])})


SPECIAL: Mapping[str, Callable[[Options], str]] = {
    "cox": _cox,
    "glm": _regression,
    "multiple_imputation": _imputed,
    "pathways": _pathways,
    "propensity": _propensity,
}


def phrase(run: str, options: Options) -> str:
    """The noun phrase that names the method of an analysis, and its columns; "" if it has none."""
    if run in SPECIAL:
        return SPECIAL[run](options)
    if run in ("inequality", "rates", "surveillance"):
        return _of_groups(options, run)
    values = {name: _listed(v) if isinstance(v, list | tuple) else v for name, v in options.items()}
    values |= {"method": str(options.get("method", "")).upper()}
    return _phrases().get(run, "").format(**values)


def paragraph(document: Document) -> str:
    """Sentences on the nodes, the cohort, each analysis and the protection; "" for a document of an
    earlier version, which does not hold what was asked."""
    if document.asked is None:
        return ""
    sentences = [_nodes(document), _cohort(document)]
    sentences += [
        _analysis(name, analysis)
        for name, analysis in document.analyses.items()
        if analysis.status == "released" and phrase(analysis.run, analysis.options)
    ]
    sentences += [_protection(next(iter(document.analyses.values())).privacy)]
    return " ".join(sentences)


def _nodes(document: Document) -> str:
    p = document.provenance
    return tr(
        "We ran a federated study over {n} nodes that hold the dataset {dataset} (contract version "
        "{contract}; authorisation {authorisation}) with hdh-federation {version}. Rows stayed at "
        "their nodes; each node sent sums, from which the hub computed the results."
    ).format(
        n=len(p["nodes"]),
        dataset=p["dataset"],
        contract=p["contract_version"],
        authorisation=p["authorisation"],
        version=p["version"],
    )


def _cohort(document: Document) -> str:
    assert document.asked is not None
    where = document.asked.where
    sentence = (
        tr("The cohort was the rows that satisfy {where}.").format(where=where)
        if where
        else tr("The cohort was all rows of the dataset.")
    )
    derived = "; ".join(f"{name} = {text}" for name, text in document.asked.derive.items())
    if not derived:
        return sentence
    return f"{sentence} {tr('We derived {columns}.').format(columns=derived)}"


def _analysis(name: str, analysis: AnalysisDocument) -> str:
    people, missing = analysis.n.get("people"), analysis.n.get("missing")
    level = words.level_of(analysis) if words.has_intervals(analysis) else ""
    has_log_rank = analysis.run == "kaplan_meier" and "log_rank" in analysis.tables
    parts = [
        tr("For {name} we computed {phrase}").format(
            name=name, phrase=phrase(analysis.run, analysis.options)
        ),
        tr(" on {n} people").format(n=people) if people is not None else "",
        tr(", with {level} intervals").format(level=level) if level else "",
        tr(", and compared the groups by the log-rank test") if has_log_rank else "",
        tr("; {n} rows with a missing value were left out").format(n=missing) if missing else "",
        f" ({_exactness(analysis)}).",
    ]
    return "".join(parts)


def _exactness(analysis: AnalysisDocument) -> str:
    if analysis.exactness == "exact":
        return tr("equal to the pooled analysis")
    return (
        tr("an approximation") if analysis.exactness == "approximate" else tr("with privacy noise")
    )


def _protection(privacy: Mapping[str, Any]) -> str:
    secure = tr(" The hub saw sums over nodes only (secure aggregation).")
    end = secure if privacy["secure_sum"] else ""
    if privacy["mode"] == "exact":
        text = tr("Numbers on fewer than {min_cell} people were withheld.")
        return text.format(min_cell=privacy["min_cell"]) + end
    by = (
        tr(
            "The nodes shared the noise: their sum, which alone the hub saw, gives each person "
            "differential privacy as long as the assumed number of nodes add their share"
        )
        if privacy["noise"] == "distributed"
        else tr("Each node added noise that gives each of its people differential privacy")
    )
    cost = tr(" (epsilon {epsilon}, delta {delta} for the study); intervals include the noise.")
    return (
        by
        + cost.format(
            epsilon=words.shown(privacy["study_epsilon"], "g"),
            delta=words.shown(privacy["delta"], "g"),
        )
        + end
    )
