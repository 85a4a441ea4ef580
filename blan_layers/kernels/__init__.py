"""Faster ways through large maps, which nobody can tell from the plain operations but by a clock."""
