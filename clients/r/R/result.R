# The result of a study, and the verbs on one analysis.

hdh_read <- function(file) {
  if (dir.exists(file)) file <- file.path(file, "result.json")
  document <- jsonlite::fromJSON(file, simplifyVector = FALSE)
  structure(list(document = document), class = "hdh_result")
}

# `own`: the names of nodes that this session simulates, whose rows hdh explains in its log.
read_done <- function(folder, done, own = NULL) {
  file <- file.path(folder, "result.json")
  if (!file.exists(file)) stop_hdh(message_of(done$log, done$text), code = done$status)
  result <- hdh_read(file)
  analyses <- unclass(result)$document$analyses
  notes <- unlist(lapply(names(analyses), function(name) note_of(name, analyses[[name]])))
  if (length(notes)) warning(paste(c(notes, lines_about(own, done$log)), collapse = "\n"), call. = FALSE)
  result
}

# Why an analysis has no result, or which nodes are not in it.
note_of <- function(name, analysis) {
  if (!length(analysis$tables)) return(paste0("analysis '", name, "' has no result: ", analysis$reason))
  absent <- Filter(function(node) !is.null(node$reason), analysis$nodes)
  vapply(absent, function(node) {
    paste0("analysis '", name, "' is without node '", node$node, "': ", node$reason)
  }, "")
}

lines_about <- function(nodes, log) {
  lines <- strsplit(log, "\r?\n|\r")[[1]]
  lines[sub(": .*", "", lines) %in% nodes]
}

names.hdh_result <- function(x) names(unclass(x)$document$analyses)

`$.hdh_result` <- function(x, name) analysis_of(x, name)

`[[.hdh_result` <- function(x, i, ...) {
  if (is.numeric(i)) i <- names(x)[[i]]
  analysis_of(x, i)
}

analysis_of <- function(result, name) {
  document <- unclass(result)$document
  content <- document$analyses[[name, exact = TRUE]]
  if (is.null(content)) {
    stop_hdh(
      "the study has no analysis '", name, "'; it has: ",
      paste0("'", names(document$analyses), "'", collapse = ", ")
    )
  }
  structure(list(name = name, content = content), class = "hdh_analysis")
}

print.hdh_result <- function(x, ...) {
  document <- unclass(x)$document
  cat("Study ", document$study, ": ", document$title, "\n", sep = "")
  for (name in names(x)) {
    cat("\n")
    print(x[[name]], ...)
  }
  invisible(x)
}

# -- tables
rows_frame <- function(rows) {
  columns <- unique(unlist(lapply(rows, names)))
  values <- lapply(columns, function(column) {
    cells <- lapply(rows, function(row) if (is.null(row[[column]])) NA else row[[column]])
    if (all(lengths(cells) == 1L)) unlist(cells) else I(cells)
  })
  frame <- as.data.frame(stats::setNames(values, columns), optional = TRUE, stringsAsFactors = FALSE)
  frame
}

# The table that tidy() gives, as in Python: coefficients, else the first that is not about the whole
# analysis; of a rank-sum test, the test.
main_table <- function(run, tables) {
  wanted <- c("coefficients", if (run == "wilcoxon") "test", setdiff(tables, "glance"), "glance")
  wanted[wanted %in% tables][[1]]
}

table_of <- function(analysis, table = NULL) {
  tables <- released(analysis)$tables
  if (is.null(table)) table <- main_table(analysis$content$run, names(tables))
  if (!table %in% names(tables)) {
    stop_hdh(
      "analysis '", analysis$name, "' has no table '", table, "'; it has: ",
      paste0("'", names(tables), "'", collapse = ", ")
    )
  }
  rows_frame(tables[[table]])
}

released <- function(analysis) {
  if (!length(analysis$content$tables)) {
    stop_hdh("analysis '", analysis$name, "' has no result: ", analysis$content$reason)
  }
  analysis$content
}

# broom's names of columns.
TIDY_NAMES <- c(
  std_error = "std.error", p_value = "p.value", conf_low = "conf.low", conf_high = "conf.high",
  n_risk = "n.risk", n_event = "n.event", n_censor = "n.censor", group = "strata"
)
GLANCE_NAMES <- c(
  n = "nobs", n_event = "nevent", log_lik = "logLik", aic = "AIC", bic = "BIC",
  null_deviance = "null.deviance", df_null = "df.null", df_residual = "df.residual",
  statistic_lr = "statistic.log", p_value_lr = "p.value.log", p_value = "p.value",
  std_error = "std.error"
)

renamed <- function(frame, by) {
  at <- match(names(frame), names(by))
  names(frame)[!is.na(at)] <- by[at[!is.na(at)]]
  frame
}

tidy.hdh_analysis <- function(x, table = NULL, exponentiate = FALSE, by_node = FALSE,
                              conf.int = TRUE, conf.level = NULL, ...) {
  rows <- if (by_node) rows_by_node(x, table) else table_of(x, table)
  if (!is.null(conf.level)) rows <- at_level(rows, x, conf.level)
  if (exponentiate) rows <- exponentiated(rows, x)
  frame <- renamed(rows, TIDY_NAMES)
  if (x$content$run == "kaplan_meier" && "strata" %in% names(frame)) {
    frame <- frame[c(setdiff(names(frame), "strata"), "strata")]
  }
  if (!conf.int) frame <- frame[setdiff(names(frame), c("conf.low", "conf.high"))]
  frame
}

rows_by_node <- function(x, table) {
  parts <- released(x)$by_node
  if (!length(parts)) {
    stop_hdh("analysis '", x$name, "' has no results of nodes; ask for results = \"both\"")
  }
  frames <- lapply(names(parts), function(node) {
    tables <- parts[[node]]$tables
    if (!length(tables)) return(NULL)
    chosen <- if (is.null(table)) main_table(x$content$run, names(tables)) else table
    cbind(node = node, rows_frame(tables[[chosen]]))
  })
  do.call(rbind, frames)
}

# The column of ratios, such as "odds_ratio", of a table that has estimates on a log scale too.
ratio_of <- function(rows) {
  named <- grep("ratio$", names(rows), value = TRUE)
  named <- named[paste0(named, "_low") %in% names(rows)]
  if (length(named) && "estimate" %in% names(rows)) named[[1]] else NULL
}

exponentiated <- function(rows, x) {
  if (is.null(ratio_of(rows))) {
    stop_hdh(
      "analysis '", x$name, "' (", x$content$run, ") has no estimates on a log scale here; leave out ",
      "`exponentiate`"
    )
  }
  for (column in intersect(c("estimate", "conf_low", "conf_high"), names(rows))) {
    rows[[column]] <- exp(rows[[column]])
  }
  rows
}

# Other levels of confidence, where an interval is the estimate and a multiple of its standard error.
at_level <- function(rows, x, level) {
  if (!is.numeric(level) || length(level) != 1L || !is.finite(level) || level <= 0 || level >= 1) {
    stop_hdh("`conf.level` must be a number between 0 and 1, such as 0.95")
  }
  declared <- x$content$options$conf_level
  if (is.null(declared)) declared <- 0.95
  if (level == declared) return(rows)
  df <- if (identical(x$content$options$family, "gaussian")) x$content$tables$glance[[1]]$df_residual
  quantile <- function(level) {
    if (is.null(df)) stats::qnorm((1 + level) / 2) else stats::qt((1 + level) / 2, df)
  }
  half <- if (all(c("estimate", "std_error", "conf_high") %in% names(rows))) {
    (rows$conf_high - rows$estimate) / rows$std_error
  }
  if (is.null(half) || !isTRUE(all(abs(half / quantile(declared) - 1) < 1e-6, na.rm = TRUE))) {
    stop_hdh(
      "analysis '", x$name, "' has intervals of ", declared, " only; for others write conf_level = ",
      level, " in the study"
    )
  }
  width <- quantile(level) * rows$std_error
  rows$conf_low <- rows$estimate - width
  rows$conf_high <- rows$estimate + width
  if (!is.null(ratio <- ratio_of(rows))) {
    rows[[paste0(ratio, "_low")]] <- exp(rows$conf_low)
    rows[[paste0(ratio, "_high")]] <- exp(rows$conf_high)
  }
  rows
}

glance.hdh_analysis <- function(x, ...) {
  content <- released(x)
  people <- Filter(Negate(is.null), content$n)
  frame <- if ("glance" %in% names(content$tables)) {
    renamed(table_of(x, "glance"), GLANCE_NAMES)
  } else {
    data.frame(nobs = people$rows)
  }
  if (content$run == "cox") frame <- cox_criteria(frame)
  if (!is.null(people$missing)) frame$n.missing <- people$missing
  frame
}

# AIC and BIC as R's: of a Cox model, BIC counts events.
cox_criteria <- function(frame) {
  if (anyNA(match(c("logLik", "df", "nevent", "nobs"), names(frame)))) return(frame)
  frame$n <- frame$nobs
  frame$AIC <- -2 * frame$logLik + 2 * frame$df
  frame$BIC <- -2 * frame$logLik + log(frame$nevent) * frame$df
  frame
}

as.data.frame.hdh_analysis <- function(x, ...) as.data.frame(tidy(x))

summary.hdh_analysis <- function(object, ...) {
  print(object, ...)
}

# -- print
print.hdh_analysis <- function(x, digits = max(1L, getOption("digits") - 3L), ...) {
  content <- x$content
  cat(x$name, "  ", content$run, "  ", content$exactness, "\n", sep = "")
  if (!length(content$tables)) {
    cat("no result: ", content$reason, "\n", sep = "")
    return(invisible(x))
  }
  if (!is.null(content$model$text)) cat("model: ", content$model$text, "\n", sep = "")
  cat("\n")
  frame <- table_of(x)
  if (all(c("term", "estimate", "std_error", "p_value") %in% names(frame))) {
    print_coefficients(x, frame, digits, ...)
  } else {
    print(as.data.frame(frame), digits = digits, row.names = FALSE)
  }
  for (note in content$notes) cat("Note: ", note, "\n", sep = "")
  invisible(x)
}

# As survival prints a coxph, and stats a glm.
print_coefficients <- function(x, frame, digits, ...) {
  survival <- x$content$run %in% c("cox", "fine_gray", "piecewise_exponential")
  is_t <- identical(x$content$options$family, "gaussian")
  if ("statistic" %in% names(frame)) statistic <- frame$statistic else statistic <- frame$estimate / frame$std_error
  values <- if (survival) {
    cbind(coef = frame$estimate, `exp(coef)` = exp(frame$estimate), `se(coef)` = frame$std_error, z = statistic, p = frame$p_value)
  } else {
    table <- cbind(frame$estimate, frame$std_error, statistic, frame$p_value)
    colnames(table) <- c(
      "Estimate", "Std. Error", if (is_t) c("t value", "Pr(>|t|)") else c("z value", "Pr(>|z|)")
    )
    table
  }
  rownames(values) <- frame$term
  stats::printCoefmat(
    values, digits = digits, signif.stars = FALSE, P.values = TRUE, has.Pvalue = TRUE,
    cs.ind = if (survival) 1:3 else 1:2, tst.ind = if (survival) 4L else 3L, na.print = "NA", ...
  )
  tables <- x$content$tables
  if (!survival || !"glance" %in% names(tables)) return(invisible())
  overall <- rows_frame(tables$glance)
  if (!is.null(overall$statistic_lr)) {
    cat(
      "\nLikelihood ratio test=", format(round(overall$statistic_lr, 2)), "  on ", overall$df,
      " df, p=", format.pval(overall$p_value_lr, digits = digits), "\n", sep = ""
    )
  }
  cat("n= ", overall$n, sep = "")
  if (!is.null(overall$n_event)) cat(", number of events=", overall$n_event)
  if (!is.null(x$content$n$missing) && x$content$n$missing > 0) {
    cat("\n   (", x$content$n$missing, " observations deleted due to missingness)", sep = "")
  }
  cat("\n")
}
