"""The parts of ``predict.py``: finding images, predicting and writing answers, without importing training libraries.

``prediction.arrays.BLANPredictor`` is the interface for programs.
"""
