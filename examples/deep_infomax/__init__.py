"""Representations learnt without labels by Deep InfoMax, evaluated by linear probes."""
