"""The report of a run: its page and its pictures."""
