"""What ``predict.py`` does: images found, scored, written down; no training library is imported for it.

``prediction.arrays.BLANPredictor`` is for programs.
"""
