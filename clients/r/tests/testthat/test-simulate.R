# The same numbers as R's own functions on all rows in one place. Both stop Newton's method at steps
# far below 1e-6 of a standard error.
study <- hdh_study("people", mode = "exact")
study <- hdh_glm(study, "glm", died ~ age + diabetes + town, family = "binomial", results = "both")
study <- hdh_cox(study, "cox", Surv(time, died) ~ age + sex)
study <- hdh_kaplan_meier(study, "curves", Surv(time, died) ~ sex)
study <- hdh_describe(study, "ages", "age")
study <- hdh_glm(study, "linear", visits ~ age + diabetes)
study <- hdh_wilcoxon(study, "ranks", "visits", "sex")

run_once <- local({
  result <- NULL
  function() {
    skip_without_hdh()
    if (is.null(result)) result <<- hdh_simulate(study, nodes, contract)
    result
  }
})

test_that("a logistic model is that of glm", {
  result <- run_once()
  rows$town <- factor(rows$town, c("Orl\u00e9ans", "N\u00eemes, sud"))
  pooled <- stats::glm(
    died ~ age + diabetes + town, stats::binomial, rows,
    control = stats::glm.control(epsilon = 1e-14)
  )
  fitted <- tidy(result$glm)
  expect_equal(fitted$estimate, unname(stats::coef(pooled)), tolerance = 1e-7)
  expect_equal(fitted$std.error, unname(sqrt(diag(stats::vcov(pooled)))), tolerance = 1e-7)
  overall <- glance(result$glm)
  expect_equal(overall$deviance, stats::deviance(pooled), tolerance = 1e-9)
  expect_equal(overall$AIC, stats::AIC(pooled), tolerance = 1e-9)
  expect_equal(overall$nobs, 900)
  expect_setequal(tidy(result$glm, by_node = TRUE)$node, names(nodes))
})

test_that("a Cox model is that of coxph, and prints like it", {
  skip_if_not_installed("survival")
  result <- run_once()
  pooled <- survival::coxph(survival::Surv(time, died) ~ age + sex, rows)
  fitted <- tidy(result$cox)
  expect_equal(fitted$estimate, unname(stats::coef(pooled)), tolerance = 1e-7)
  expect_equal(fitted$std.error, unname(sqrt(diag(stats::vcov(pooled)))), tolerance = 1e-7)
  expect_equal(glance(result$cox)$logLik, as.numeric(stats::logLik(pooled)), tolerance = 1e-9)
  expect_equal(glance(result$cox)$AIC, stats::AIC(pooled), tolerance = 1e-9)
  expect_equal(glance(result$cox)$BIC, stats::BIC(pooled), tolerance = 1e-9)
  expect_identical(glance(result$cox)$n, pooled$n)
  ours <- utils::capture.output(print(result$cox))
  theirs <- utils::capture.output(print(pooled))
  expect_identical(sub("sex\\[M\\]", "sexM  ", grep("^age|^sex", ours, value = TRUE))[[1]],
                   gsub("^age ", "age   ", grep("^age", theirs, value = TRUE)))
  expect_identical(grep("^Likelihood", ours, value = TRUE), grep("^Likelihood", theirs, value = TRUE))
})

test_that("curves are a survfit, which summary and plot take", {
  skip_if_not_installed("survival")
  result <- run_once()
  pooled <- survival::survfit(survival::Surv(time, died) ~ sex, rows)
  curves <- as_survfit(result$curves)
  expect_s3_class(curves, "survfit")
  at <- c(6, 12, 18)
  ours <- summary(curves, times = at)
  theirs <- summary(pooled, times = at)
  for (part in c("surv", "std.err", "lower", "upper", "n.risk", "n.event", "cumhaz")) {
    expect_equal(ours[[part]], theirs[[part]], tolerance = 1e-7, info = part)
  }
  expect_equal(unname(curves$strata), unname(pooled$strata))
  file <- tempfile(fileext = ".pdf")
  grDevices::pdf(file)
  plot(curves)
  hdh_forest(result$glm)
  grDevices::dev.off()
  expect_gt(file.size(file), 1000)
})

test_that("rows of a curve are those of survfit, and survminer draws it", {
  skip_if_not_installed("survival")
  curves <- as_survfit(run_once()$curves)
  pooled <- survival::survfit(survival::Surv(time, died) ~ sex, rows)
  again <- survival::survfit(survival::Surv(time, died) ~ sex, hdh_rows(curves))
  for (part in c("time", "n.event", "surv", "std.err", "lower", "strata")) {
    expect_equal(again[[part]], pooled[[part]], tolerance = 1e-7, info = part)
  }
  expect_error(hdh_rows(pooled$surv), "as_survfit", class = "hdh_error")
  skip_if_not_installed("survminer")
  drawn <- survminer::ggsurvplot(curves, data = hdh_rows(curves), risk.table = TRUE, pval = TRUE)
  theirs <- survminer::ggsurvplot(pooled, data = rows, risk.table = TRUE, pval = TRUE)
  expect_equal(drawn$data.survplot$surv, theirs$data.survplot$surv, tolerance = 1e-7)
  expect_identical(levels(drawn$data.survplot$strata), levels(theirs$data.survplot$strata))
  grDevices::pdf(NULL)
  on.exit(grDevices::dev.off())
  expect_silent(print(drawn))
})

test_that("intervals of another level are those of confint", {
  result <- run_once()
  pooled <- stats::lm(visits ~ age + diabetes, rows)
  fitted <- tidy(result$linear, conf.level = 0.8)
  expect_equal(fitted$conf.low, unname(stats::confint(pooled, level = 0.8)[, 1]), tolerance = 1e-7)
  ratios <- tidy(result$glm, conf.level = 0.9, exponentiate = TRUE)
  expect_equal(ratios$conf.high, ratios$odds_ratio_high)
  expect_equal(log(ratios$conf.high / ratios$estimate), stats::qnorm(0.95) * ratios$std.error, tolerance = 1e-9)
  nodes <- tidy(result$glm, by_node = TRUE, exponentiate = TRUE)
  expect_equal(nodes$estimate, nodes$odds_ratio)
  expect_named(tidy(result$linear, conf.int = FALSE), c("term", "estimate", "std.error", "statistic", "p.value"))
  expect_error(tidy(result$curves, conf.level = 0.9), "write conf_level = 0.9", class = "hdh_error")
  expect_error(tidy(result$glm, conf.level = 95), "between 0 and 1", class = "hdh_error")
})

test_that("only logs of ratios become ratios", {
  result <- run_once()
  expect_error(tidy(result$curves, exponentiate = TRUE), "log scale", class = "hdh_error")
  expect_error(tidy(result$linear, exponentiate = TRUE), "log scale", class = "hdh_error")
  grDevices::pdf(NULL)
  on.exit(grDevices::dev.off())
  hdh_forest(result$linear)
  expect_false(graphics::par("xlog"))
  hdh_forest(result$glm)
  expect_true(graphics::par("xlog"))
  expect_error(hdh_forest(result$ages), "no table of terms", class = "hdh_error")
})

test_that("a result names what is not there", {
  result <- run_once()
  expect_error(result$nothing, "it has: 'glm', 'cox', 'curves', 'ages', 'linear', 'ranks'", class = "hdh_error")
  expect_error(tidy(result$glm, "nothing"), "it has: 'coefficients'", class = "hdh_error")
  expect_error(as_survfit(result$glm), "only kaplan_meier", class = "hdh_error")
  expect_error(tidy(result$cox, by_node = TRUE), "results = \"both\"", class = "hdh_error")
})

test_that("a mistake in a study is an error with the words of hdh", {
  skip_without_hdh()
  wrong <- hdh_glm(hdh_study("people", mode = "exact"), "m", died ~ aeg, family = "binomial")
  error <- tryCatch(hdh_simulate(wrong, nodes, contract), hdh_error = identity)
  expect_match(conditionMessage(error), "unknown column 'aeg'")
  expect_false(grepl(tempdir(), conditionMessage(error), fixed = TRUE))
})

test_that("an analysis that is withheld is a warning, and the others stay", {
  skip_without_hdh()
  few <- lapply(nodes, function(rows) rows[1:8, ])
  warned <- capture_warnings(result <- hdh_simulate(study, few, contract))
  expect_match(warned, "has no result", all = FALSE)
  expect_error(tidy(result$glm), "has no result", class = "hdh_error")
})

test_that("a node whose rows break the contract is told with a value and the remedy", {
  skip_without_hdh()
  wrong <- nodes
  wrong$lyon$diabetes <- ifelse(wrong$lyon$diabetes, "oui", "non")
  two <- hdh_glm(hdh_study("people", mode = "exact", min_nodes = 2), "m", died ~ diabetes, family = "binomial")
  warned <- capture_warnings(result <- hdh_simulate(two, wrong, contract))
  expect_match(warned, "analysis 'm' is without node 'lyon': data: ", fixed = TRUE, all = FALSE)
  expect_match(warned, "lyon: diabetes: line 2 has '(oui|non)', a word for yes or no", all = FALSE)
  expect_s3_class(tidy(result$m), "data.frame")
  all_words <- lapply(nodes, function(rows) transform(rows, diabetes = ifelse(diabetes, "oui", "non")))
  again <- hdh_simulate(two, all_words, contract, read = list(yes = list("oui", "TRUE"), no = list("non", "FALSE")))
  expect_identical(glance(again$m)$nobs, 900L)
  expect_error(hdh_simulate(two, nodes, contract, read = "x"), "list with names", class = "hdh_error")
  expect_error(hdh_simulate(two, c(nodes, list(nice2 = "no.csv")), contract),
               "node 'nice2': no.csv: no such file", class = "hdh_error")
})

test_that("a plan says what a study costs", {
  skip_without_hdh()
  private <- hdh_glm(hdh_study("people", epsilon = 1), "m", died ~ age, family = "binomial")
  plan <- hdh_plan(private, people = c(limoges = 300, lyon = 300, nice = 300), contract = contract)
  expect_identical(plan$mode, "dp")
  expect_output(print(plan), "limoges")
})
