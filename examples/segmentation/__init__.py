"""Attention at the skips of a small U-Net, on shapes drawn for it."""
