"""The pilot studies: each is a study, its contract, and the source of its people."""
