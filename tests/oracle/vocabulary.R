# The pooled answers of R for the analyses after the first ones: `Rscript tests/oracle/vocabulary.R` prints them as JSON, from
# patients.csv and visits.csv beside it. Made with R 4.2.2, survival 3.5-3, cmprsk 2.2-11. `make oracle` runs it again and compares.
suppressMessages({library(survival); library(cmprsk)})
here <- dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE)))
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
num <- function(x) if (length(x) == 1) jsonnum(x) else paste0("[", paste(jsonnum(x), collapse = ", "), "]")
jsonnum <- function(x) ifelse(!is.finite(x), "null", trimws(formatC(x, digits = 17, format = "g")))
entries <- sapply(names(out), function(n) paste0('  "', n, '": {', paste0('"', names(out[[n]]), '": ', sapply(out[[n]], num), collapse = ", "), "}"))
cat("{\n", paste(entries, collapse = ",\n"), "\n}\n", sep = "")
