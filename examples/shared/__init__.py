"""What several examples need: files, errors, sheets to draw on, processes."""
