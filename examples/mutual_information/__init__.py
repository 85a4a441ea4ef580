"""Mutual information, measured: estimators beside known truth, and a function for arrays of your own."""
