"""Export a finished run to ONNX and check it: ``python examples/blan_facial/export.py --help``."""

import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

if not __package__:  # run as a script, from anywhere
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn

from blan_facial.data.loading import normalize
from blan_facial.network.model import Network
from blan_facial.results.finished import FinishedRun, load_run
from blan_facial.training.scaling import Scaling
from shared.files import refuse_inputs, replacing
from shared.program import UserError, run_program

PROGRAM = "python examples/blan_facial/export.py"
DESCRIPTION = """Export a finished run to an ONNX file that maps uint8 RGB images (B, 3, S, S) to the probabilities
(B, N) of the run. Its metadata contain the attributes and their thresholds. The file is written only if ONNX Runtime
reproduces the probabilities of the run with it."""

TOLERANCE = 1e-4
"""Maximum difference between probabilities of the file and of the run."""

_BATCHES = (1, 3)  # that are compared
_SEED = 0  # of the images


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to export, and where to write it."""

    run: tyro.conf.Positional[Path]
    """Output folder of a finished run."""
    output: Path | None = None
    """File to write; by default model.onnx in the run's folder."""


class Probabilities(nn.Module):
    """A network that maps images to probabilities.

    Args:
        model: The network, in evaluation mode.
        scaling: Calibration of the log-odds; None leaves them unchanged.
    """

    def __init__(self, model: Network, scaling: Scaling | None) -> None:
        super().__init__()
        self.model = model
        scale, shift = (1.0, 0.0) if scaling is None else scaling[:2]
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities (B, N) of uint8 images (B, 3, S, S)."""
        logits = self.model(normalize(images)).logits
        return ((logits[..., 1] - logits[..., 0]) * self.scale + self.shift).sigmoid()


def run(settings: Settings, console: Console) -> None:
    """Export, check and write.

    Raises:
        RunError: The folder does not contain a finished run.
        UserError: A package is missing, or the file does not reproduce the run's probabilities.
    """
    _look_for_packages()
    finished = load_run(settings.run)
    output = settings.output or settings.run / "model.onnx"
    refuse_inputs("export", "--output", output, (path for path in settings.run.iterdir() if path.name != "model.onnx"))
    model = Probabilities(finished.model, finished.scaling).eval()
    images = _images(max(_BATCHES), finished.config.image_size)
    packed = _exported(model, images, _metadata(finished))
    difference = max(_difference(packed, model, images[:count]) for count in _BATCHES)
    if not difference <= TOLERANCE:
        raise UserError(
            f"export: the file must reproduce the run's probabilities to {TOLERANCE}, got a difference of "
            f"{difference:.2g}. "
            "Use other versions of torch and onnxruntime."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as file:
        file.write(packed)
    said = f"{output} reproduces the run's probabilities of {len(finished.attributes)} attributes to {difference:.1g}."
    console.print(said, markup=False, highlight=False, soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    settings = tyro.cli(Settings, args=arguments, prog=PROGRAM, description=DESCRIPTION)
    return run_program("export", partial(run, settings))


def _look_for_packages() -> None:
    lacking = []
    for package in ("onnx", "onnxruntime", "onnxscript"):
        try:
            __import__(package)
        except ImportError:
            lacking.append(package)
    if lacking:
        raise UserError(
            f"export: needs onnx, onnxruntime and onnxscript, got no {', '.join(lacking)}. "
            "Install them with pip install 'blan-layers[onnx]'."
        )


def _metadata(finished: FinishedRun) -> dict[str, str]:
    given = finished.probabilities
    thresholds = [given] * len(finished.attributes) if isinstance(given, float) else list(given)
    return {"attributes": json.dumps(finished.attributes), "thresholds": json.dumps(thresholds)}


def _images(count: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(_SEED)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def _exported(model: nn.Module, images: Tensor, metadata: dict[str, str]) -> bytes:
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own code
        path = Path(folder, "model.onnx")
        torch.onnx.export(
            model,
            (images,),
            path,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        proto = onnx.load(path)
    onnx.helper.set_model_props(proto, metadata)
    return bytes(proto.SerializeToString())


@torch.no_grad()
def _difference(packed: bytes, model: nn.Module, images: Tensor) -> float:
    """Return the largest difference between probabilities of the file and of the model."""
    import onnxruntime

    session = onnxruntime.InferenceSession(packed, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    return float((torch.from_numpy(found) - model(images)).abs().max())


if __name__ == "__main__":
    sys.exit(main())
