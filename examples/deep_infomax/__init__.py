"""Representations learnt without labels by Deep InfoMax, and what linear probes find in them."""
