"""BLAN for facial attributes: data, model, training and report, built on blan_layers."""
