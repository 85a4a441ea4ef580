"""Devices, the processes that serve them, and signals; nothing here knows of faces."""
