"""BLAN and the baselines, their objectives, and the builder that makes them from the settings."""
