"""Attention in the skip connections of a small U-Net, on drawn shapes."""
