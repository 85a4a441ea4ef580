"""The inference time of a model for a single image."""

import statistics
import time
from collections.abc import Sequence

import torch

from blan_facial.config import Config
from blan_facial.network.builder import build

WARM_UP, TIMED = 5, 30


@torch.no_grad()
def milliseconds(config: Config, attributes: Sequence[str]) -> float:
    """Return the median time for one image on the GPU or, without a GPU, on the CPU, with random weights."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(config, attributes)[0].eval().to(device)
    model.to(memory_format=model.encoder.memory_format)  # type: ignore[call-overload]  # torch types Module.to without it
    image = torch.zeros(1, 3, config.image_size, config.image_size, device=device)
    image = image.to(memory_format=torch.channels_last)  # as in evaluation
    times = []
    for _ in range(WARM_UP + TIMED):
        started = time.perf_counter()
        model(image)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[WARM_UP:])
