"""Measuring mutual information: estimators compared with known values, and a command for your own arrays."""
