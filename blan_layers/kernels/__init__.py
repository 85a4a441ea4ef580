"""Faster ways through the library's large passes, with the results of the plain operations, and the choice of way."""
