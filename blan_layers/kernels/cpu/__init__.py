"""The blocked way through large maps on a CPU."""
