"""The pilot studies: each a study, its contract, and where its people come from."""
