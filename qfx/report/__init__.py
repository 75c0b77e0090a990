"""What was decided for each operation, and why: as data, text and page."""
