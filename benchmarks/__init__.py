"""The library and its peers on the same inputs in one run: time, memory, and the distance to the floor."""
