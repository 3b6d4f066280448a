library(testthat)
library(hdhfederation)

test_check("hdhfederation")
