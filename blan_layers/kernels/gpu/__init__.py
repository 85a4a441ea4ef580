"""The Triton way through large maps on a GPU. Nothing here is imported before the way is taken."""
