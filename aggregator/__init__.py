"""What runs at the hub: it sees Parts, and never rows."""
