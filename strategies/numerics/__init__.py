"""What several analyses share: Newton's method, counts of people, groups."""
