# The pooled answers of R: `Rscript tests/oracle/recipe.R dialysis.csv` prints them as JSON, from people.csv beside it
# and from the Dialysis data (written by simulations.pilots.dialysis, the four nodes' files bound together).
# Made with R 4.2.2 and survival 3.5-3. `make oracle` runs it again and compares with expected.json.
suppressMessages(library(survival))
args <- commandArgs(trailingOnly = TRUE)
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
d <- read.csv(file.path(here, "people.csv"), stringsAsFactors = TRUE)
dial <- read.csv(args[1])
dial$diabetes <- dial$disease == "diabetes"
out <- list()
put <- function(.entry, ...) out[[.entry]] <<- list(...)
tight <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 50)
cox <- function(name, fit) put(name, coef = unname(coef(fit)), se = unname(sqrt(diag(vcov(fit)))), loglik = fit$loglik)
cox("dialysis_pooled", coxph(Surv(time, event) ~ age + begin + diabetes, dial, control = tight))
cox("dialysis_stratified", coxph(Surv(time, event) ~ age + begin + diabetes + strata(centre), dial, control = tight))
cox("dialysis_breslow", coxph(Surv(time, event) ~ age + begin + diabetes, dial, ties = "breslow", control = tight))
f <- Surv(start, stop, event) ~ age + dose + sex + arm
for (ties in c("efron", "breslow")) {
  cox(paste0("cox_", ties), coxph(f, d, ties = ties, control = tight))
  cox(paste0("cox_site_", ties), coxph(update(f, . ~ . + strata(site)), d, ties = ties, control = tight))
  cox(paste0("cox_weighted_robust_", ties), coxph(f, d, ties = ties, weights = weight, cluster = person, control = tight))
  cox(paste0("cox_site_weighted_robust_", ties), coxph(update(f, . ~ . + strata(site)), d, ties = ties, weights = weight, cluster = person, control = tight))
}
cox("cox_interaction", coxph(Surv(stop, event) ~ log(dose) * sex + I(age^2) + relevel(arm, "b"), d, control = tight))
linear <- function(name, fit) put(name, coef = unname(coef(fit)), se = unname(sqrt(diag(vcov(fit)))), deviance = fit$deviance, null = fit$null.deviance, aic = fit$aic, loglik = as.numeric(logLik(fit)))
sharp <- glm.control(epsilon = 1e-15, maxit = 50)
linear("gaussian", glm(score ~ age + dose + sex * arm, data = d))
linear("gaussian_weighted", glm(score ~ age + dose + sex, data = d, weights = weight))
linear("binomial", glm(died ~ age + dose + sex + arm, binomial, d, control = sharp))
linear("binomial_no_intercept", glm(died ~ 0 + arm + dose:sex, binomial, d, control = sharp))
linear("poisson", glm(visits ~ age + sex + offset(log(exposure)), poisson, d, control = sharp))
linear("poisson_weighted", glm(visits ~ dose + sex, poisson, d, weights = weight, control = sharp))
piecewise <- function(name, f, cuts) {  # Friedman 1982: events on person-time by interval
  s <- survSplit(f, d, cut = cuts, episode = "k", start = "from", end = "to", event = "ev")
  fit <- glm(ev ~ 0 + factor(k) + age + dose + sex + arm + offset(log(to - from)), poisson, s, control = sharp)
  n <- length(cuts) + 1
  put(name, hazard = unname(coef(fit)[1:n]), coef = unname(coef(fit)[-(1:n)]), se = unname(sqrt(diag(vcov(fit))))[-(1:n)], se_hazard = unname(sqrt(diag(vcov(fit))))[1:n],
      loglik = sum(s$ev[!is.na(s$age)] * fit$linear.predictors - s$ev[!is.na(s$age)] * log((s$to - s$from)[!is.na(s$age)]) - fitted(fit)))
}
piecewise("piecewise", Surv(stop, event) ~ ., c(5, 12, 20))
piecewise("piecewise_entry", Surv(start, stop, event) ~ ., c(8, 15))
km <- function(name, fit) put(name, time = fit$time, n_risk = fit$n.risk, surv = fit$surv, se = fit$std.err * fit$surv, low = fit$lower, high = fit$upper)
km("km", survfit(Surv(stop, event) ~ 1, d))
km("km_entry", survfit(Surv(start, stop, event) ~ 1, d))
km("km_dialysis_diabetes", survfit(Surv(time, event) ~ 1, dial[dial$diabetes, ]))
lr <- survdiff(Surv(stop, event) ~ arm, d); put("log_rank", statistic = lr$chisq, df = 2)
lrs <- survdiff(Surv(stop, event) ~ arm + strata(sex), d); put("log_rank_strata", statistic = lrs$chisq, df = 2)
tb <- table(d$arm, d$sex); x <- chisq.test(tb); put("chi_squared", counts = as.vector(t(tb)), statistic = unname(x$statistic), p = x$p.value)
x2 <- chisq.test(table(d$sex, d$died)); put("chi_squared_yates", statistic = unname(x2$statistic), p = x2$p.value)
a <- d$age[!is.na(d$age)]
put("describe", n = length(a), mean = mean(a), sd = sd(a), quantile = unname(quantile(a, c(.1, .25, .5, .75, .9), type = 1)))
num <- function(x) if (length(x) == 1) jsonnum(x) else paste0("[", paste(jsonnum(x), collapse = ", "), "]")
jsonnum <- function(x) ifelse(!is.finite(x), "null", trimws(formatC(x, digits = 17, format = "g")))
entries <- sapply(names(out), function(n) paste0('  "', n, '": {', paste0('"', names(out[[n]]), '": ', sapply(out[[n]], num), collapse = ", "), "}"))
cat("{\n", paste(entries, collapse = ",\n"), "\n}\n", sep = "")
