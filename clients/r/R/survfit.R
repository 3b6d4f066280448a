# Curves as objects of the package survival, which its own plot and survminer take.

as_survfit <- function(x, ...) UseMethod("as_survfit")

as_survfit.default <- function(x, ...) {
  stop_hdh("only a kaplan_meier analysis of a result is a survfit, as in as_survfit(result$curves)")
}

as_survfit.hdh_analysis <- function(x, ...) {
  if (x$content$run != "kaplan_meier") {
    stop_hdh("analysis '", x$name, "' is a ", x$content$run, "; only kaplan_meier gives a survfit")
  }
  curve <- as.data.frame(table_of(x, "curve"))
  shown <- !is.na(curve$estimate) & !is.na(curve$n_risk)
  if (any(!shown)) {
    warning(
      sum(!shown), " of ", length(shown), " times are withheld because few people are behind them; ",
      "the curve is drawn level until the next time that is shown", call. = FALSE
    )
  }
  curve <- curve[shown, ]
  group <- if (is.null(curve$group)) rep("all", nrow(curve)) else as.character(curve$group)
  groups <- unique(group)
  by_group <- order(match(group, groups), curve$time)
  curve <- curve[by_group, ]
  group <- group[by_group]
  std_err <- curve$std_error / curve$estimate # survfit keeps the error of log(surv)
  level <- x$content$options$conf_level
  fit <- list(
    n = as.integer(vapply(groups, function(g) first_at_risk(curve[group == g, ]), 0)),
    time = curve$time, n.risk = curve$n_risk, n.event = curve$n_event, n.censor = curve$n_censor,
    surv = curve$estimate, std.err = ifelse(curve$estimate > 0, std_err, Inf),
    cumhaz = cumulative_hazard(curve, group, x, all(shown)), type = "right",
    logse = TRUE, conf.int = if (is.null(level)) 0.95 else level, conf.type = "log",
    lower = curve$conf_low, upper = curve$conf_high,
    call = curve_call(x)
  )
  if (length(groups) > 1L) {
    fit$strata <- stats::setNames(as.integer(table(factor(group, groups))), groups)
  }
  structure(fit, class = "survfit")
}

# As survival writes it, with the rows by which survminer finds the names of the groups.
curve_call <- function(x) {
  knows_surv <- requireNamespace("survival", quietly = TRUE)
  where <- if (knows_surv) asNamespace("survival") else globalenv()
  model <- stats::as.formula(x$content$options$model, env = where)
  call("survfit", formula = model, data = quote(rows))
}

# For each event and each person who left, at the times that a curve shows, a row with the names of
# the model: the curve of these rows is the curve itself. survminer asks for such a table.
hdh_rows <- function(fit) {
  if (!inherits(fit, "survfit") || is.null(fit$call$formula)) {
    stop_hdh("give a curve of as_survfit()")
  }
  outcome <- as.character(fit$call$formula[[2L]])[2:3]
  group <- if (is.null(fit$strata)) rep("", length(fit$time)) else rep(names(fit$strata), fit$strata)
  counts <- function(n) pmax(0L, as.integer(round(n)))
  at <- rep(seq_along(fit$time), counts(fit$n.event) + counts(fit$n.censor))
  event <- unlist(Map(function(e, c) rep(c(1L, 0L), c(e, c)), counts(fit$n.event), counts(fit$n.censor)))
  frame <- stats::setNames(data.frame(fit$time[at], event), outcome)
  for (part in strsplit(unique(group[nzchar(group)])[1L], ", ", fixed = TRUE)[[1L]]) {
    name <- sub("=.*", "", part)
    if (!is.na(part)) frame[[name]] <- sub(paste0("(^|.*, )", name, "=(.*?)(, .*|$)"), "\\2", group[at], perl = TRUE)
  }
  frame
}

# Nelson and Aalen's, which needs the events and the people at risk of every time; where some times
# are withheld, left out by `every`, or noised, minus the logarithm of the curve.
cumulative_hazard <- function(curve, group, x, is_whole) {
  every_time <- is_whole && is.null(x$content$options$every) && identical(x$content$exactness, "exact")
  if (!every_time) return(-log(curve$estimate))
  stats::ave(curve$n_event / curve$n_risk, group, FUN = cumsum)
}

first_at_risk <- function(rows) if (nrow(rows)) max(rows$n_risk) else 0

# `exponentiate`: by default where the estimates are logs of ratios.
hdh_forest <- function(x, exponentiate = NULL, ...) {
  frame <- if (inherits(x, "hdh_analysis")) tidy(x) else x
  if (!all(c("term", "estimate", "conf.low", "conf.high") %in% names(frame))) {
    stop_hdh("there is no table of terms with intervals to draw; pass one of tidy()")
  }
  if (is.null(exponentiate)) exponentiate <- !is.null(ratio_of(frame))
  frame <- frame[!is.na(frame$estimate) & frame$term != "(Intercept)", ]
  if (!nrow(frame)) stop_hdh("there is no estimate to draw")
  change <- if (exponentiate) exp else identity
  estimate <- change(frame$estimate)
  low <- change(frame$conf.low)
  high <- change(frame$conf.high)
  at <- rev(seq_len(nrow(frame)))
  old <- graphics::par(mar = c(4, 2 + 0.55 * max(nchar(frame$term)), 1, 1))
  on.exit(graphics::par(old))
  graphics::plot(
    estimate, at, xlim = range(low, high), ylim = c(0.5, nrow(frame) + 0.5), log = if (exponentiate) "x" else "",
    pch = 15, yaxt = "n", ylab = "", xlab = if (exponentiate) "ratio" else "estimate", ...
  )
  graphics::segments(low, at, high, at)
  graphics::abline(v = change(0), lty = 2)
  graphics::axis(2, at = at, labels = frame$term, las = 1, tick = FALSE)
  invisible(frame)
}
