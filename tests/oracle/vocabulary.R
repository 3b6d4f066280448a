# The pooled answers of R for the analyses after the first ones: `Rscript tests/oracle/vocabulary.R divat.csv oropharynx.csv trace.csv`
# prints them as JSON, from the tables beside it and those of the pilots' real data (the nodes' files bound together). Made with R 4.2.2, survival 3.5-3, cmprsk 2.2-11. `make oracle` runs it again and compares.
suppressMessages({library(survival); library(cmprsk); library(epitools); library(gnm); library(lme4); library(surveillance); library(metafor)})
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
args <- commandArgs(trailingOnly = TRUE); divat <- read.csv(args[1]); oro <- read.csv(args[2]); trace <- read.csv(args[3])
d <- read.csv(file.path(here, "patients.csv"))
v <- read.csv(file.path(here, "visits.csv"))
out <- list()
put <- function(.entry, ...) out[[.entry]] <<- list(...)
d$state <- factor(d$cause, c("none", "relapse", "death"))
aj <- survfit(Surv(time, state) ~ 1, d)
put("aalen_johansen", time = aj$time, relapse = aj$pstate[, 2], death = aj$pstate[, 3], se_relapse = aj$std.err[, 2], se_death = aj$std.err[, 3],
    low = aj$lower[, 2], high = aj$upper[, 2])
X <- cbind(d$age, d$sex == "m", d$stage == "ii", d$stage == "iii", d$treated)
for (code in 1:2) {
  fit <- crr(d$time, as.integer(d$state) - 1, X, failcode = code, cencode = 0, gtol = 1e-12, maxiter = 100)
  put(paste0("fine_gray_", levels(d$state)[code + 1]), coef = unname(fit$coef), se = sqrt(diag(fit$var)), loglik = c(fit$loglik.null, fit$loglik))
}
by <- function(x, g) as.vector(tapply(x, g, sum))
E <- by(d$admissions, d$ward); T <- by(d$years, d$ward)
ends <- pois.exact(E, T)
put("rates", events = E, time = T, rate = ends$rate, low = ends$lower, high = ends$upper)
log_rr <- log(E[-1] / T[-1]) - log(E[1] / T[1]); wald <- t(sapply(2:5, function(i) rateratio.wald(c(E[1], E[i]), c(T[1], T[i]))$measure[2, ]))
put("rate_ratios", rr = unname(wald[, 1]), low = unname(wald[, 2]), high = unname(wald[, 3]))
strata <- tapply(d$years, list(d$ward, d$sex), sum); cases <- tapply(d$admissions, list(d$ward, d$sex), sum)
std <- c(3, 1)
adjusted <- t(sapply(1:5, function(i) ageadjust.direct(cases[i, ], strata[i, ], stdpop = std)))
put("direct", crude = unname(adjusted[, 1]), rate = unname(adjusted[, 2]), low = unname(adjusted[, 3]), high = unname(adjusted[, 4]))
indirect <- sapply(1:5, function(i) ageadjust.indirect(cases[i, ], strata[i, ], colSums(cases), colSums(strata))$sir[c("observed", "exp", "sir")])
put("indirect", observed = indirect[1, ], expected = indirect[2, ], sir = indirect[3, ])
v$window <- relevel(factor(v$window), "none"); v$band <- factor(v$band, c("young", "middle", "old")); v$id <- factor(v$person)
cases <- droplevels(v[ave(v$events, v$person, FUN = sum) > 0, ])
fit <- gnm(events ~ window + band + offset(log(days)), eliminate = id, family = poisson, data = cases, tolerance = 1e-14, iterMax = 100)
put("sccs", coef = unname(coef(fit)), se = unname(sqrt(diag(vcov(fit)))), people = nlevels(cases$id), events = sum(cases$events))
sharp <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-12, maxfun = 1e5))
mixed <- function(.entry, fit) put(.entry, coef = unname(fixef(fit)), se = unname(sqrt(diag(as.matrix(vcov(fit))))), loglik = as.numeric(logLik(fit)),
  sd = as.data.frame(VarCorr(fit))$sdcor, blup = unlist(unname(as.list(ranef(fit)[[1]][1:3, , drop = FALSE]))))
mixed("mixed_reml", lmer(score ~ month * treated + (1 + month | person), v, control = sharp))
mixed("mixed_ml", lmer(score ~ month * treated + (1 + month | person), v, REML = FALSE, control = sharp))
mixed("mixed_site", lmer(score ~ month + treated + (1 | site), v, control = sharp))
a <- table(d$ward, d$stage); N <- nrow(d)  # as if patients were reports: wards as drugs, stages as events
A <- as.vector(t(a)); n1 <- rep(rowSums(a), each = 3); n2 <- rep(colSums(a), 5)
tabs <- lapply(seq_along(A), function(i) matrix(c(A[i], n1[i] - A[i], n2[i] - A[i], N - n1[i] - n2[i] + A[i]), 2, byrow = TRUE))
E <- n1 * n2 / N
rr <- t(sapply(tabs, function(m) riskratio.wald(m[2:1, 2:1])$measure[2, ])); or <- t(sapply(tabs, function(m) oddsratio.wald(m)$measure[2, ]))
put("disproportionality", n = A, expected = E, prr = unname(rr[, 1]), prr_low = unname(rr[, 2]), prr_high = unname(rr[, 3]),
    ror = unname(or[, 1]), ror_low = unname(or[, 2]), ror_high = unname(or[, 3]),
    chi_squared = sapply(tabs, function(m) unname(suppressWarnings(chisq.test(m))$statistic)),
    ic = log2((A + .5) / (E + .5)), ic_low = log2(qgamma(.025, A + .5, E + .5)), ic_high = log2(qgamma(.975, A + .5, E + .5)),
    p_value = ppois(A - 1, E, lower.tail = FALSE), q_value = p.adjust(ppois(A - 1, E, lower.tail = FALSE), "BH"))
score <- glm(treated ~ age + sex + stage, binomial, d, control = glm.control(epsilon = 1e-15, maxit = 50))
e <- fitted(score); treated <- d$treated == 1; event <- as.integer(d$cause != "none")
kinds <- list(ate = ifelse(treated, mean(treated) / e, (1 - mean(treated)) / (1 - e)), att = ifelse(treated, 1, e / (1 - e)), overlap = ifelse(treated, 1 - e, e))
M <- model.matrix(score)[, -1]
for (kind in names(kinds)) {
  weight <- kinds[[kind]]
  fit <- coxph(Surv(time, event) ~ treated, d, weights = weight, robust = TRUE, control = coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 50))
  curve <- summary(survfit(Surv(time, event) ~ treated, d, weights = weight), times = c(6, 12, 24, 36))
  sds <- sqrt((apply(M[treated, ], 2, var) + apply(M[!treated, ], 2, var)) / 2)
  after <- sapply(colnames(M), function(x) weighted.mean(M[treated, x], weight[treated]) - weighted.mean(M[!treated, x], weight[!treated])) / sds
  put(paste0("propensity_", kind), coef = unname(coef(fit)), se = sqrt(fit$var[1, 1]), score = unname(coef(score)), surv = curve$surv, se_surv = curve$std.err,
      before = unname((colMeans(M[treated, ]) - colMeans(M[!treated, ])) / sds), after = unname(after),
      ess = as.vector(tapply(weight, treated, function(x) sum(x)^2 / sum(x^2))))
}
y <- c(.35, .12, .61, -.04, .28); se <- c(.11, .2, .15, .31, .09)
fit <- rma(y, sei = se, control = list(threshold = 1e-14, maxiter = 1000)); fixed <- rma(y, sei = se, method = "FE"); out1 <- leave1out(fit)
put("meta", estimate = as.numeric(fit$beta), se = fit$se, tau2 = fit$tau2, i2 = fit$I2, q = fit$QE, p = fit$QEp, fixed = as.numeric(fixed$beta), fixed_se = fixed$se,
    without = out1$estimate, without_se = out1$se)
tb <- table(d$sex, d$treated, d$stage); mh <- mantelhaen.test(tb); plain <- mantelhaen.test(tb, correct = FALSE)
put("mantel_haenszel", or = unname(mh$estimate), low = mh$conf.int[1], high = mh$conf.int[2], statistic = unname(mh$statistic), plain = unname(plain$statistic))
equal <- oneway.test(age ~ ward, d, var.equal = TRUE); welch <- oneway.test(age ~ ward, d)
pairs <- lapply(c("b", "c", "d", "e"), function(w) t.test(d$age[d$ward == w], d$age[d$ward == "a"]))
put("anova", statistic = unname(c(equal$statistic, welch$statistic)), p = c(equal$p.value, welch$p.value), df = unname(c(equal$parameter[2], welch$parameter[2])),
    difference = sapply(pairs, function(x) unname(x$estimate[1] - x$estimate[2])), low = sapply(pairs, function(x) x$conf.int[1]), p_difference = sapply(pairs, function(x) x$p.value))
pc <- prcomp(d[, c("age", "time", "years", "cost")], scale. = TRUE); turn <- apply(pc$rotation, 2, function(x) sign(x[which.max(abs(x))]))
put("pca", variance = unname(pc$sdev^2), loadings = unname(as.vector(pc$rotation %*% diag(turn))))
Q <- c(.42, .51, .38, .47, .44); U <- c(.0121, .0144, .01, .0125, .0119); rubin <- mice::pool.scalar(Q, U, n = 203, k = 3)
put("rubin", estimate = rubin$qbar, variance = rubin$t, df = rubin$df, fmi = rubin$fmi)
sharp_cox <- coxph.control(eps = 1e-14, toler.chol = 1e-15, iter.max = 50)
fit <- coxph(Surv(time, event) ~ age + (sex == "male") + graft, divat, control = sharp_cox)
put("divat", coef = unname(coef(fit)), se = unname(sqrt(diag(vcov(fit)))), loglik = fit$loglik)
fit <- coxph(Surv(round(time, 3), event) ~ age + chf + diabetes + vf, trace, control = sharp_cox)
put("trace", coef = unname(coef(fit)), se = unname(sqrt(diag(vcov(fit)))))
month <- ceiling(oro$time * 12 - 1e-9); late <- month > 60; oro$month <- pmin(month, 60); oro$event[late] <- 0; oro$treated <- oro$treatm == 2
fit <- glm(treated ~ age + (sex == 2) + tstage + nstage, binomial, oro, control = glm.control(epsilon = 1e-15, maxit = 50)); e <- fitted(fit)
weight <- ifelse(oro$treated, mean(oro$treated) / e, (1 - mean(oro$treated)) / (1 - e))
fit <- coxph(Surv(month, event) ~ treated, oro, weights = weight, robust = TRUE, control = sharp_cox)
put("oropharynx", coef = unname(coef(fit)), se = sqrt(fit$var[1, 1]))
w <- read.csv(file.path(here, "weeks.csv"))
counts <- sapply(c("north", "south"), function(r) tabulate(w$week[w$region == r] + 1, 330))
series <- sts(observed = counts, frequency = 52, start = c(2000, 1))
tight <- stats::glm.control; formals(tight)$epsilon <- 1e-15; formals(tight)$maxit <- 100  # farringtonFlexible leaves no other way
assignInNamespace("glm.control", tight, "stats")
far <- function(.entry, ...) {
  fit <- farringtonFlexible(series, list(range = 325:330, glmWarnings = FALSE, ...))
  put(.entry, upper = as.vector(t(fit@upperbound)), expected = as.vector(t(fit@control$expected)), alarm = as.integer(t(fit@alarm)))
}
flexible <- list(b = 4, w = 3, noPeriods = 10, pastWeeksNotIncluded = 26, weightsThreshold = 2.58, pThresholdTrend = 1, alpha = .01)
do.call(far, c("farrington_nb", flexible, thresholdMethod = "nbPlugin"))
do.call(far, c("farrington_muan", flexible, thresholdMethod = "muan"))
do.call(far, c("farrington_delta", flexible, thresholdMethod = "delta"))
far("farrington_trend", b = 4, w = 3, noPeriods = 1, pastWeeksNotIncluded = 3, weightsThreshold = 1, pThresholdTrend = .05, alpha = .05, thresholdMethod = "delta")
for (m in c("C1", "C2", "C3")) { fit <- earsC(series, list(range = 320:330, method = m)); put(paste0("ears_", m), upper = as.vector(t(fit@upperbound)), alarm = as.integer(t(fit@alarm))) }
# rank-sum test, without R's exact p-values. R finds the ends of the shift by bisection: with a tight tol.root they are, to nine decimals, the
# differences at which the standardised statistic crosses the quantile. The superiority's error is DeLong's by its definition, from all pairs.
rank_sum <- function(.entry, y, g) {
  x1 <- y[g == levels(g)[1]]; x2 <- y[g == levels(g)[2]]
  ranked <- function(alternative = "two.sided", correct = TRUE) wilcox.test(y ~ g, exact = FALSE, correct = correct, alternative = alternative, conf.int = TRUE, tol.root = 1e-11)
  sides <- c("two.sided", "less", "greater")
  pairs <- outer(x1, x2, function(a, b) (a > b) + (a == b) / 2)
  A <- mean(pairs); se <- sqrt(var(rowMeans(pairs)) / length(x1) + var(colMeans(pairs)) / length(x2))
  ends <- plogis(qlogis(A) + c(-1, 1) * qnorm(.975) * se / (A * (1 - A)))
  put(.entry, n = c(length(x1), length(x2)), statistic = unname(ranked()$statistic), p_value = sapply(sides, function(s) ranked(s)$p.value, USE.NAMES = FALSE),
      p_uncorrected = sapply(sides, function(s) ranked(s, FALSE)$p.value, USE.NAMES = FALSE),
      superiority = A, superiority_se = se, superiority_ends = ends, median = c(median(x1), median(x2)), shift = median(outer(x1, x2, "-")),
      shift_ends = round(ranked()$conf.int[1:2], 9), shift_uncorrected = round(ranked("two.sided", FALSE)$conf.int[1:2], 9),
      shift_less = round(ranked("less")$conf.int[2], 9), shift_greater = round(ranked("greater")$conf.int[1], 9))
}
sex <- factor(d$sex, c("f", "m")); treated <- factor(d$treated)
rank_sum("rank_sum_cost", d$cost, treated)
rank_sum("rank_sum_age", d$age, sex)
rank_sum("rank_sum_years", d$years, treated)
rank_sum("rank_sum_admissions", d$admissions, sex)
rank_sum("rank_sum_time", d$time, sex)
h <- head(d[order(d$person), ], 60)
rank_sum("rank_sum_small", h$age, factor(h$treated))
num <- function(x) if (length(x) == 1) jsonnum(x) else paste0("[", paste(jsonnum(x), collapse = ", "), "]")
jsonnum <- function(x) ifelse(!is.finite(x), "null", trimws(formatC(x, digits = 17, format = "g")))
entries <- sapply(names(out), function(n) paste0('  "', n, '": {', paste0('"', names(out[[n]]), '": ', sapply(out[[n]], num), collapse = ", "), "}"))
cat("{\n", paste(entries, collapse = ",\n"), "\n}\n", sep = "")
