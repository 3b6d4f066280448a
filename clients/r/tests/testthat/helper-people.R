# Three nodes of people without missing values, and their contract.
people <- function(seed, n = 300) {
  set.seed(seed)
  age <- round(runif(n, 20, 90), 3)
  diabetes <- runif(n) < 0.3
  data.frame(
    age = age, diabetes = diabetes, sex = factor(sample(c("F", "M"), n, TRUE)),
    town = sample(c("Orl\u00e9ans", "N\u00eemes, sud"), n, TRUE),
    visits = rpois(n, 2), time = sample(c(6, 12, 18, 24), n, TRUE),
    died = runif(n) < plogis(-1 + age / 60 + diabetes)
  )
}

nodes <- list(limoges = people(1), lyon = people(2), nice = people(3))
rows <- do.call(rbind, nodes)

contract <- list(
  dataset = "people", version = 1, unit = "row",
  columns = list(
    age = list(type = "number", range = c(18, 110), unit = "years"),
    diabetes = list(type = "boolean"),
    sex = list(type = "category", levels = c("F", "M")),
    town = list(type = "category", levels = c("Orl\u00e9ans", "N\u00eemes, sud")),
    visits = list(type = "number", range = c(0, 30), step = 1),
    time = list(type = "number", range = c(0, 24), step = 1),
    died = list(type = "boolean")
  )
)

skip_without_hdh <- function() {
  found <- tryCatch(nzchar(hdh_command()[[1]]), hdh_error = function(error) FALSE)
  skip_if_not(found, "hdh is not installed; set HDH_COMMAND")
}
