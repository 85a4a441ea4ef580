"""BLAN and its rivals, their objectives, and the builder that makes them from the settings."""
