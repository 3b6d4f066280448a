# A study as a value: the keys of study.yaml, and one entry for each analysis.

# The options that are lists in study.yaml, also where they hold one value, by analysis; and those of
# a contract. R cannot tell "age" from a list of one name.
list_options <- list(
  describe = c("columns", "quantiles"),
  inequality = c("by", "quantiles", "top"),
  k_means = c("columns"),
  mantel_haenszel = c("strata"),
  multiple_imputation = c("impute"),
  pca = c("columns"),
  piecewise_exponential = c("cuts"),
  rates = c("by", "over"),
  surveillance = c("by", "weeks"),
  train = c("cuts", "recall_rates", "widths")
)
list_keys <- c("levels", "range", "missing", "shape", "use")

hdh_study <- function(name, ..., dataset = name, title = name, question = title,
                      purpose = NULL, authorisation = NULL, min_nodes = NULL,
                      where = NULL, derive = NULL, codes = NULL,
                      mode = NULL, epsilon = NULL, delta = NULL, secure_sum = NULL,
                      min_cell = NULL) {
  check_text(name, "name")
  if (is.character(purpose)) {
    purpose <- list(interest = "public", category = purpose)
  }
  cohort <- drop_null(list(codes = codes, derive = derive, where = where))
  privacy <- drop_null(list(
    mode = mode, epsilon = epsilon, delta = delta, secure_sum = secure_sum, min_cell = min_cell
  ))
  values <- drop_null(list(
    study = name, title = title, question = question, purpose = purpose,
    authorisation = authorisation, dataset = dataset, min_nodes = min_nodes,
    cohort = if (length(cohort)) cohort, privacy = if (length(privacy)) privacy, ...
  ))
  structure(list(values = values, analyses = list()), class = "hdh_study")
}

hdh_add <- function(study, name, run, ...) {
  check_study(study)
  check_text(name, "name")
  if (name %in% names(study$analyses)) {
    stop_hdh("the study has an analysis '", name, "' already; give this one another name")
  }
  options <- drop_null(list(...))
  if (length(options) && (is.null(names(options)) || any(names(options) == ""))) {
    stop_hdh("analysis '", name, "': every option needs a name, such as family = \"binomial\"")
  }
  options <- lapply(options, function(value) if (inherits(value, "formula")) formula_text(value) else value)
  for (key in intersect(names(options), list_options[[run]])) {
    options[[key]] <- as.list(options[[key]])
  }
  study$analyses[[name]] <- c(list(run = run), options)
  study
}

# A formula as one line of text, as R writes it.
formula_text <- function(formula) {
  gsub("\\s+", " ", paste(deparse(formula, width.cutoff = 500L), collapse = " "))
}

hdh_write <- function(study, file) {
  check_study(study)
  text <- study_text(study)
  writeLines(text, file, useBytes = TRUE)
  invisible(file)
}

# The text of study.yaml. JSON is YAML, and leaves no scalar to a guess.
study_text <- function(study, own_rows = FALSE) {
  values <- study$values
  if (own_rows) {
    on_own_rows <- list(
      purpose = list(interest = "public", category = "research"),
      authorisation = list(reference = "own rows", expires = "9999-12-31")
    )
    values <- c(values, on_own_rows[setdiff(names(on_own_rows), names(values))])
  }
  if (!length(study$analyses)) {
    stop_hdh("study '", values$study, "' has no analysis; add one, as with hdh_cox()")
  }
  values$analyses <- study$analyses
  to_json(values)
}

print.hdh_study <- function(x, ...) {
  kinds <- vapply(x$analyses, function(entry) entry$run, "")
  analyses <- if (length(kinds)) paste0(names(kinds), ": ", kinds, collapse = ", ") else "no analysis"
  cat("<Study ", x$values$study, ": ", analyses, ">\n", sep = "")
  invisible(x)
}

# -- JSON
to_json <- function(values) {
  jsonlite::toJSON(
    as_yaml(values), auto_unbox = TRUE, null = "null", json_verbatim = TRUE, pretty = TRUE, Date = "ISO8601"
  )
}

# A value of which toJSON makes what the YAML needs: named vectors become mappings, and the keys in
# `list_keys` lists.
as_yaml <- function(value, key = "") {
  if (is.factor(value)) value <- as.character(value)
  if (inherits(value, "formula")) value <- formula_text(value)
  if (!is.null(names(value))) {
    value <- as.list(value)
    return(Map(as_yaml, value, names(value)))
  }
  if (is.list(value) || (key %in% list_keys && !is.null(value))) return(lapply(value, as_yaml))
  if (is.numeric(value) && is.null(attr(value, "class"))) return(as_numbers(value))
  value
}

# Numbers with all their digits: jsonlite writes 15 of them.
as_numbers <- function(numbers) {
  text <- exact_text(numbers)
  text[is.na(text)] <- "null"
  parts <- lapply(text, structure, class = "json")
  if (length(parts) == 1L) parts[[1]] else parts
}

# -- conditions
stop_hdh <- function(..., class = NULL, code = NULL) {
  stop(structure(
    class = c(class, "hdh_error", "error", "condition"),
    list(message = paste0(...), call = NULL, code = code)
  ))
}

check_study <- function(study) {
  if (!inherits(study, "hdh_study")) {
    stop_hdh("this is not a study; begin with hdh_study(\"name\")")
  }
}

check_text <- function(value, what) {
  if (!is.character(value) || length(value) != 1L || is.na(value) || !nzchar(value)) {
    stop_hdh("`", what, "` must be one text")
  }
}

drop_null <- function(values) values[!vapply(values, is.null, NA)]
