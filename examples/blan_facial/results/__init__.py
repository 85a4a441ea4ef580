"""The folder of a run, and a finished run read from it."""
