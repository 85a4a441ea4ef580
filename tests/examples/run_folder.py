"""Writes the output folder of a run that was never trained."""

from collections.abc import Sequence
from pathlib import Path

import torch

from blan_facial.config import parse
from blan_facial.network.builder import build
from blan_facial.network.model import Network
from blan_facial.results.run_folder import begin, save_results
from blan_facial.training.scaling import Scaling

ATTRIBUTES = ("Smiling", "Eyeglasses", "Black_Hair", "Big_Nose")
SMALL = ("--image-size", "32", "--width", "4", "--summary-channels", "8", "--critic-channels", "8")


def write_run(
    folder: Path, *options: str, attributes: Sequence[str] = ATTRIBUTES, scaling: Scaling | None = None
) -> Network:
    """Write the folder and return its model, its norms, biases and fusion moved from where they start."""
    config = parse(options)
    model, _ = build(config, attributes)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running" in name or name == "fusion.weight":
                tensor.add_(torch.rand(tensor.shape))
            elif name.endswith("bias"):
                tensor.add_(torch.randn(tensor.shape))
    folder.mkdir(parents=True, exist_ok=True)
    begin(folder, config, attributes)
    save_results(folder, model, {"per_attribute": dict.fromkeys(attributes)}, scaling)
    return model
