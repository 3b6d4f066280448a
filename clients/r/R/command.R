# The command `hdh`, which computes.

# The words of the command line: the option `hdh.command`, the variable HDH_COMMAND, or `hdh` on the
# path. The option may hold several words, such as c("python3", "-m", "federation.cli.main").
hdh_command <- function() {
  command <- getOption("hdh.command")
  if (is.null(command)) {
    command <- strsplit(Sys.getenv("HDH_COMMAND"), " ", fixed = TRUE)[[1]]
  }
  if (!length(command)) {
    command <- unname(Sys.which("hdh"))
  }
  if (!nzchar(command[[1]])) {
    stop_hdh(
      "the command hdh is not on the path; install hdh-federation with pip, or say where it is: ",
      "options(hdh.command = \"/opt/hdh/bin/hdh\")"
    )
  }
  command
}

# Runs hdh. Returns its standard output; a failure is an error of class hdh_error with the message of
# hdh. `codes`: exit codes that leave a result. `scratch`: a folder of ours, which no message names.
run_hdh <- function(words, codes = 0L, quiet = TRUE, scratch = "") {
  command <- hdh_command()
  show <- function(line, process) if (!quiet) message(line)
  done <- processx::run(
    command[[1]], c(command[-1], words),
    error_on_status = FALSE, stderr_line_callback = show,
    env = surroundings(),
    encoding = "UTF-8"
  )
  if (!done$status %in% codes) {
    stop_hdh(message_of(done$stderr, done$stdout, scratch), code = done$status)
  }
  list(text = done$stdout, status = done$status, log = done$stderr)
}

# The environment of hdh: that of R, without the folders that R puts before the library path, in which
# a Python that is not the system's would find the system's own library.
surroundings <- function() {
  variables <- Sys.getenv()
  variables <- stats::setNames(as.character(variables), names(variables))
  folders <- strsplit(Sys.getenv("LD_LIBRARY_PATH"), ":", fixed = TRUE)[[1]]
  by_r <- startsWith(folders, R.home()) | startsWith(folders, "/usr/lib") | !nzchar(folders)
  variables <- variables[names(variables) != "LD_LIBRARY_PATH"]
  if (!all(by_r)) variables[["LD_LIBRARY_PATH"]] <- paste(folders[!by_r], collapse = ":")
  variables[c("PYTHONIOENCODING", "NO_COLOR", "COLUMNS")] <- c("utf-8", "1", "200")
  variables
}

# The lines of an error, without the progress above them.
message_of <- function(log, text, scratch = "") {
  lines <- strsplit(if (nzchar(trimws(log))) log else text, "\r?\n|\r")[[1]]
  if (nzchar(scratch)) lines <- gsub(paste0(scratch, "/"), "", lines, fixed = TRUE)
  lines <- lines[nzchar(trimws(lines))]
  first <- grep("^[A-Z][A-Za-z]*Error:", lines)
  if (length(first)) lines <- lines[first[[1]]:length(lines)]
  if (!length(lines)) lines <- "hdh ended without a message"
  paste(lines, collapse = "\n")
}
