"""Devices, their processes, and signals; independent of the task."""
