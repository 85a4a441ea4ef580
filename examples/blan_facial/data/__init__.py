"""Faces and their attributes: drawn avatars, CelebA and LFWA, and the way from them to batches."""
