"""The blocked passes over large maps on a CPU."""
