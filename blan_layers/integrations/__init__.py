"""Adapters for other libraries, none of which is imported here."""
