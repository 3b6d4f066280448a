# One function for each analysis. Each adds an entry to the study; docs/analyses.md describes their options.

# Means of a number by group, and their analysis of variance.
hdh_anova <- function(study, name, value, by, ...) {
  hdh_add(study, name, "anova", value = value, by = by, ...)
}

# Gradient boosted trees for a yes-or-no outcome or a number.
hdh_boosted_trees <- function(study, name, model, ...) {
  hdh_add(study, name, "boosted_trees", model = model, ...)
}

# Cox's proportional hazards, with the pooled partial likelihood.
hdh_cox <- function(study, name, model, ...) {
  hdh_add(study, name, "cox", model = model, ...)
}

# A cross-table of two columns, with tests.
hdh_crosstab <- function(study, name, rows, columns, ...) {
  hdh_add(study, name, "crosstab", rows = rows, columns = columns, ...)
}

# Cumulative incidence of competing causes (Aalen-Johansen).
hdh_cumulative_incidence <- function(study, name, model, ...) {
  hdh_add(study, name, "cumulative_incidence", model = model, ...)
}

# Counts, means, spread and quantiles of columns.
hdh_describe <- function(study, name, columns, ...) {
  hdh_add(study, name, "describe", columns = columns, ...)
}

# Signals of drug safety from spontaneous reports.
hdh_disproportionality <- function(study, name, drug, event, ...) {
  hdh_add(study, name, "disproportionality", drug = drug, event = event, ...)
}

# A logistic model by federated averaging.
hdh_fedavg <- function(study, name, model, ...) {
  hdh_add(study, name, "fedavg", model = model, ...)
}

# Subdistribution hazards of one cause among competing ones (Fine and Gray).
hdh_fine_gray <- function(study, name, model, cause, ...) {
  hdh_add(study, name, "fine_gray", model = model, cause = cause, ...)
}

# A generalised linear model: gaussian, binomial or poisson.
hdh_glm <- function(study, name, model, ...) {
  hdh_add(study, name, "glm", model = model, ...)
}

# Gini, Lorenz curve, quantiles and top shares of a number.
hdh_inequality <- function(study, name, value, ...) {
  hdh_add(study, name, "inequality", value = value, ...)
}

# Groups of alike people by k-means.
hdh_k_means <- function(study, name, columns, ...) {
  hdh_add(study, name, "k_means", columns = columns, ...)
}

# Survival curves and the log-rank test.
hdh_kaplan_meier <- function(study, name, model, ...) {
  hdh_add(study, name, "kaplan_meier", model = model, ...)
}

# A common odds ratio over strata (Mantel and Haenszel).
hdh_mantel_haenszel <- function(study, name, exposure, outcome, strata, ...) {
  hdh_add(study, name, "mantel_haenszel", exposure = exposure, outcome = outcome, strata = strata, ...)
}

# A linear model with random effects of people or sites.
hdh_mixed_model <- function(study, name, model, ...) {
  hdh_add(study, name, "mixed_model", model = model, ...)
}

# A model over multiply imputed missing values.
hdh_multiple_imputation <- function(study, name, model, impute, ...) {
  hdh_add(study, name, "multiple_imputation", model = model, impute = impute, ...)
}

# Steps of care: their transitions, times and indicators.
hdh_pathways <- function(study, name, step, time, ...) {
  hdh_add(study, name, "pathways", step = step, time = time, ...)
}

# Principal components of columns.
hdh_pca <- function(study, name, columns, ...) {
  hdh_add(study, name, "pca", columns = columns, ...)
}

# Hazard ratios with a baseline that is constant between cuts.
hdh_piecewise_exponential <- function(study, name, model, ...) {
  hdh_add(study, name, "piecewise_exponential", model = model, ...)
}

# A treatment effect by inverse propensity weights.
hdh_propensity <- function(study, name, treatment, confounders, ...) {
  hdh_add(study, name, "propensity", treatment = treatment, confounders = confounders, ...)
}

# Incidence over person-time, ratios and standardised rates.
hdh_rates <- function(study, name, events, time, ...) {
  hdh_add(study, name, "rates", events = events, time = time, ...)
}

# A self-controlled case series.
hdh_sccs <- function(study, name, model, ...) {
  hdh_add(study, name, "sccs", model = model, ...)
}

# Weekly counts with alarms of outbreaks.
hdh_surveillance <- function(study, name, week, ...) {
  hdh_add(study, name, "surveillance", week = week, ...)
}

# A neural network, trained over the nodes.
hdh_train <- function(study, name, model, ...) {
  hdh_add(study, name, "train", model = model, ...)
}

# Wilcoxon's rank-sum test of a number in two groups.
hdh_wilcoxon <- function(study, name, value, by, ...) {
  hdh_add(study, name, "wilcoxon", value = value, by = by, ...)
}
