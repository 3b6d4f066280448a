"""What runs beside the data: it sees rows, and answers queries with protected sums."""
