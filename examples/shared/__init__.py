"""What several examples need: files, errors, drawings, processes."""
