# Studies on data frames that play the nodes, and at a hub.

# The exit codes of hdh that leave a result: all analyses have one, none, or some.
COMPLETE <- 0L
NOTHING <- 4L
PARTIAL <- 5L

hdh_simulate <- function(study, nodes, contract, out = NULL, strict = FALSE, engine = "local",
                         quiet = TRUE, read = NULL) {
  check_study(study)
  check_nodes(nodes)
  scratch <- tempfile("hdh-")
  dir.create(scratch, mode = "0700")
  on.exit(unlink(scratch, recursive = TRUE))
  folder <- if (is.null(out)) file.path(scratch, "out") else path.expand(out)
  study_file <- file.path(scratch, "study.yaml")
  writeLines(study_text(study, own_rows = TRUE), study_file, useBytes = TRUE)
  files <- lapply(seq_along(nodes), function(i) {
    node_file(nodes[[i]], names(nodes)[[i]], file.path(scratch, paste0("node-", i, ".csv")))
  })
  words <- c(
    "simulate", study_file, "--contract", contract_file(contract, scratch),
    rbind("--node", paste0(names(nodes), "=", unlist(files))),
    if (length(read)) c("--read", read_file(read, scratch)),
    "--engine", engine, "--out", folder, "--format", "json", if (strict) "--strict"
  )
  done <- run_hdh(words, c(COMPLETE, NOTHING, PARTIAL), quiet, scratch)
  read_done(folder, done, names(nodes))
}

hdh_submit <- function(study, contract = NULL, nodes = NULL, deadline = NULL, out = NULL,
                       keys = NULL, wait = TRUE, quiet = FALSE) {
  scratch <- tempfile("hdh-")
  dir.create(scratch, mode = "0700")
  on.exit(unlink(scratch, recursive = TRUE))
  folder <- if (is.null(out)) file.path(scratch, "out") else path.expand(out)
  words <- c(
    "study", "submit", study_file(study, scratch),
    if (!is.null(contract)) c("--contract", contract_file(contract, scratch)),
    if (length(nodes)) rbind("--node", nodes),
    if (!is.null(deadline)) c("--deadline", deadline),
    if (!is.null(keys)) c("--keys", path.expand(keys)),
    if (wait) c("--watch", "--out", folder)
  )
  done <- run_hdh(words, if (wait) c(COMPLETE, NOTHING, PARTIAL) else COMPLETE, quiet, scratch)
  if (wait) read_done(folder, done) else invisible(trimws(done$text))
}

hdh_status <- function(study, keys = NULL) {
  words <- c("study", "status", as.character(study))
  cat(run_hdh(c(words, if (!is.null(keys)) c("--keys", path.expand(keys))))$text)
}

hdh_plan <- function(study, people = NULL, contract = NULL, hub = FALSE, keys = NULL) {
  scratch <- tempfile("hdh-")
  dir.create(scratch, mode = "0700")
  on.exit(unlink(scratch, recursive = TRUE))
  words <- c(
    "study", "plan", study_file(study, scratch, own_rows = !hub),
    if (!is.null(contract)) c("--contract", contract_file(contract, scratch)),
    if (length(people)) rbind("--people", paste0(names(people), "=", people)),
    if (hub) "--hub",
    if (!is.null(keys)) c("--keys", path.expand(keys)),
    "--format", "json"
  )
  plan <- jsonlite::fromJSON(run_hdh(words, scratch = scratch)$text, simplifyVector = FALSE)
  structure(plan, class = "hdh_plan")
}

print.hdh_plan <- function(x, ...) {
  for (name in names(x)) {
    table <- x[[name]]
    if (is.list(table) && length(table) && is.null(names(table))) {
      cat(name, "\n", sep = "")
      print(rows_frame(table), row.names = FALSE)
    } else if (is.atomic(table) && length(table) == 1L) {
      cat(name, ": ", format(table), "\n", sep = "")
    }
  }
  invisible(x)
}

study_file <- function(study, scratch, own_rows = FALSE) {
  if (is.character(study)) return(path.expand(study))
  check_study(study)
  file <- file.path(scratch, "study.yaml")
  writeLines(study_text(study, own_rows), file, useBytes = TRUE)
  file
}

contract_file <- function(contract, scratch) {
  if (is.character(contract)) return(existing(contract, "`contract`"))
  if (!is.list(contract)) {
    stop_hdh("`contract` must be the path of a contract, or its content as a list")
  }
  file <- file.path(scratch, "contract.yaml")
  writeLines(to_json(contract), file, useBytes = TRUE)
  file
}

# -- the rows of a node
# The keys that say how the values are written, as in the `read:` of a node.
read_file <- function(read, scratch) {
  if (!is.list(read) || is.null(names(read))) {
    stop_hdh("`read` must be a list with names, such as list(decimal = \",\")")
  }
  file <- file.path(scratch, "read.yaml")
  writeLines(to_json(read), file, useBytes = TRUE)
  file
}

existing <- function(file, what) {
  if (!file.exists(file)) stop_hdh(what, ": ", file, ": no such file; correct the path")
  normalizePath(file)
}

check_nodes <- function(nodes) {
  if (!is.list(nodes) || is.data.frame(nodes) || is.null(names(nodes)) || any(names(nodes) == "")) {
    stop_hdh("`nodes` must be a list with the name of each node: list(lyon = rows, nice = rows)")
  }
  if (anyDuplicated(names(nodes))) {
    stop_hdh("two nodes are called '", names(nodes)[anyDuplicated(names(nodes))], "'; rename one")
  }
}

node_file <- function(rows, name, file) {
  if (is.character(rows) && length(rows) == 1L) return(existing(rows, paste0("node '", name, "'")))
  if (!is.data.frame(rows)) {
    stop_hdh("node '", name, "': its rows must be a data frame, or the path of a file")
  }
  columns <- Map(function(column, title) as_written(column, title, name), rows, names(rows))
  # A factor of text is written with quotes, so that a comma in it separates nothing.
  utils::write.csv(
    as.data.frame(columns, optional = TRUE, stringsAsFactors = FALSE),
    file, row.names = FALSE, na = "", quote = TRUE, fileEncoding = "UTF-8"
  )
  file
}

# A column as text that loses nothing: 17 digits where 15 are not enough, days and times in ISO 8601.
as_written <- function(column, title, node) {
  if (inherits(column, "Date")) return(format(column, "%Y-%m-%d"))
  if (inherits(column, "POSIXct")) {
    at_midnight <- format(column, "%H:%M:%S") == "00:00:00" # of its own time zone: a day
    if (all(at_midnight | is.na(column))) return(format(column, "%Y-%m-%d"))
    return(format(column, "%Y-%m-%dT%H:%M:%S", tz = "UTC"))
  }
  if (is.factor(column) || is.character(column)) return(enc2utf8(as.character(column)))
  if (is.logical(column)) return(ifelse(column, "true", "false"))
  if (is.integer(column)) return(ifelse(is.na(column), NA, format(column, scientific = FALSE, trim = TRUE)))
  if (is.numeric(column) && is.null(attr(column, "class"))) return(exact_text(column))
  stop_hdh(
    "node '", node, "', column '", title, "': R's class ", class(column)[[1]],
    " has no counterpart in a contract; turn it into a number, text, factor, Date or logical"
  )
}

exact_text <- function(numbers) {
  text <- vapply(numbers, function(x) {
    format(x, digits = 15, trim = TRUE, decimal.mark = ".")
  }, "")
  short <- is.na(numbers) | (suppressWarnings(as.numeric(text)) == numbers) %in% TRUE
  text[!short] <- sprintf("%.17g", numbers[!short])
  text[is.na(numbers)] <- NA
  text
}
