"""A run or an experiment as one HTML file, which needs no network and, but for sorting and sliding, no JavaScript."""
