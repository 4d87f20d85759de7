"""What is told about a request: its ids, its line in the log, its numbers, its span."""
