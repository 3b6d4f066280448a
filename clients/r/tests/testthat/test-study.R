test_that("a study is the YAML that hdh reads", {
  study <- hdh_study("people", mode = "exact", where = "age >= 30")
  study <- hdh_glm(study, "model", died ~ age + diabetes, family = "binomial")
  study <- hdh_describe(study, "ages", "age")
  file <- tempfile(fileext = ".yaml")
  hdh_write(study, file)
  read <- jsonlite::fromJSON(file, simplifyVector = FALSE)
  expect_identical(read$cohort$where, "age >= 30")
  expect_identical(
    read$analyses$model,
    list(run = "glm", model = "died ~ age + diabetes", family = "binomial")
  )
  expect_identical(read$analyses$ages$columns, list("age")) # a list, although of one name
})

test_that("a long formula stays one line, and an interaction keeps its words", {
  long <- reformulate(c(sprintf("covariate_%02d", 1:60), "a:b", "strata(centre)"), "y")
  study <- hdh_glm(hdh_study("people"), "m", long)
  text <- study$analyses$m$model
  expect_false(grepl("\n", text))
  expect_match(text, "covariate_60 + a:b + strata(centre)", fixed = TRUE)
})

test_that("named vectors become mappings, and lists of one value stay lists", {
  text <- as.character(hdhfederation:::to_json(list(
    derive = c(old = "age > 65"), columns = list(sex = list(type = "category", levels = "F"))
  )))
  read <- jsonlite::fromJSON(text, simplifyVector = FALSE)
  expect_identical(read$derive, list(old = "age > 65"))
  expect_identical(read$columns$sex$levels, list("F"))
})

test_that("mistakes are told before anything runs", {
  expect_error(hdh_glm("people", "m", y ~ x), "begin with hdh_study", class = "hdh_error")
  expect_error(hdh_simulate(hdh_study("p"), nodes, contract), "has no analysis", class = "hdh_error")
  study <- hdh_describe(hdh_study("people"), "d", "age")
  expect_error(hdh_simulate(study, rows, contract), "the name of each node", class = "hdh_error")
  expect_error(hdh_add(study, "m", "glm", y ~ x), "every option needs a name", class = "hdh_error")
  odd <- nodes
  odd$lyon$time <- as.difftime(odd$lyon$time, units = "days")
  expect_error(
    hdh_simulate(study, odd, contract), "node 'lyon', column 'time'.*difftime", class = "hdh_error"
  )
})

test_that("numbers, days and texts are written without loss", {
  written <- hdhfederation:::as_written
  numbers <- c(1 / 3, 0.1, 1e-300, 123456789.123456789, NA, 1e15 + 0.5, -0)
  expect_identical(as.numeric(written(numbers, "x", "n")), numbers)
  expect_identical(written(as.Date("2024-02-29"), "d", "n"), "2024-02-29")
  expect_identical(written(c(TRUE, NA), "b", "n"), c("true", NA))
  expect_identical(written(c(100000L, NA), "i", "n"), c("100000", NA))
})

test_that("a French session writes the same numbers, and a day stays a day", {
  written <- hdhfederation:::as_written
  old <- options(OutDec = ",")
  on.exit(options(old))
  expect_identical(written(c(0.5, NA, 1 / 3), "x", "n"), c("0.5", NA, "0.33333333333333331"))
  day <- as.POSIXct("2020-01-01", tz = "Europe/Paris")
  expect_identical(written(day, "d", "n"), "2020-01-01")
  text <- as.character(hdhfederation:::to_json(list(range = c(0, 1 / 3))))
  expect_identical(jsonlite::fromJSON(text)$range, c(0, 1 / 3))
})

test_that("tidy() gives the table about terms, times or cells, and not the one about the whole", {
  main <- hdhfederation:::main_table
  expect_equal(main("train", c("glance", "survival", "history")), "survival")
  expect_equal(main("glm", c("glance", "coefficients")), "coefficients")
  expect_equal(main("wilcoxon", c("groups", "quantiles", "test")), "test")
  expect_equal(main("example", "glance"), "glance")
})

test_that("a second analysis of one name is an error", {
  once <- hdh_describe(hdh_study("people", mode = "exact"), "ages", "age")
  expect_error(hdh_describe(once, "ages", "bmi"), "has an analysis 'ages' already", class = "hdh_error")
})
