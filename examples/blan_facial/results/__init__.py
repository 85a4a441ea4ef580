"""The folder of a run, and loading a finished run from it."""
