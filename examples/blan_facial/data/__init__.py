"""Faces and their attributes: the data sets, their readers, and batches."""
