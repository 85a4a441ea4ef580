"""Code that several examples share: files, errors, drawings and processes."""
