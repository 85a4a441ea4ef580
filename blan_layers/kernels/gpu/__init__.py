"""The Triton passes over large maps on a GPU. Nothing here is imported before it is used."""
