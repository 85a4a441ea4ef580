"""What each of two processes runs for ``test_devices.py``, told its place as torchrun tells it.

``python two_devices.py FOLDER``. One process would pay for the imports of both; all that needs two is here.
"""

import copy
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from blan_facial.config import parse
from blan_facial.data.avatars import load_avatars
from blan_facial.data.faces import DataError
from blan_facial.data.loading import normalize
from blan_facial.machines.devices import make_fabric
from blan_facial.machines.processes import PeerError, Processes
from blan_facial.network.builder import build
from blan_facial.train import main
from blan_facial.training import learner as learner_module
from blan_facial.training.learner import Counted, Learner, TrainingStep
from blan_facial.training.loop import Trainer
from blan_layers.mutual_information import infomax

SMALL = [
    *("--images", "64", "--image-size", "32", "--width", "4", "--summary-channels", "8", "--critic-channels", "8"),
    *("--batch-size", "16", "--epochs", "2", "--warmup-steps", "0", "--accelerator", "cpu", "--devices", "2"),
]


def precise(images: Tensor) -> Tensor:
    return normalize(images).double()


def blocks(*sizes: int) -> Any:
    """Return what draws the negatives of each share from the share itself, as its own process does."""

    def indices(*_: Any, **__: Any) -> Tensor:
        starts = [sum(sizes[:share]) for share in range(len(sizes))]
        return torch.cat([start + torch.arange(size).roll(-1) for start, size in zip(starts, sizes, strict=True)])

    return indices


def gradients(module: nn.Module) -> dict[str, Tensor]:
    """Return all gradients, whole."""
    found = {name: parameter.grad for name, parameter in module.named_parameters()}
    return {
        name: gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
        for name, gradient in found.items()
        if gradient is not None
    }


def one_step_equals_one_process(strategy: str, sizes: tuple[int, int]) -> None:
    """With norms frozen, no dropout and prescribed negatives, the gradients are those of the joined batch."""
    faces = load_avatars("train", image_size=32, count=64)
    images, labels = (
        torch.from_numpy(np.stack([faces.image(index) for index in range(8)])).movedim(-1, 1),
        torch.from_numpy(faces.labels[:8]).long(),
    )
    config = parse([*SMALL, "--strategy", strategy, "--lr", "1e-6"])
    fabric = make_fabric(config)
    processes = Processes(fabric)
    model, objective = build(config, faces.attributes)
    model.double()
    objective.double()
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(buffer, 0.5, 4)
    alone = copy.deepcopy(TrainingStep(model, objective)).eval()
    learner = Learner(config, fabric, processes, model, objective)
    learner.step.eval()

    mine = slice(0, sizes[0]) if processes.first else slice(sizes[0], 8)
    share = sizes[processes.rank] * 2 / 8
    learner.learn(0, config.lr, images[mine], labels[mine], Counted(share, share))

    drawn, infomax.drawn_indices = infomax.drawn_indices, blocks(*sizes)
    alone(images, labels)[0].backward()
    infomax.drawn_indices = drawn
    truth = gradients(alone)
    ours = gradients(learner.step.module)
    assert ours.keys() == truth.keys()
    assert max(value.abs().max() for value in truth.values()) > 1e-2
    for name, value in truth.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-8, atol=1e-10)


def a_checkpoint_is_taken_up_as_it_is(folder: Path, strategy: str) -> None:
    """What other devices wrote is what these ones would write, bit by bit."""
    config = parse([*SMALL, "--strategy", strategy])
    fabric = make_fabric(config)
    faces, validation = (load_avatars(split, image_size=32, count=64) for split in ("train", "validation"))
    model, objective = build(config, faces.attributes)
    processes = Processes(fabric)
    learner = Learner(config, fabric, processes, model, objective)
    Trainer(config, processes, learner, faces, validation, Console(quiet=True)).restore(folder)
    weights, adam, _ = learner.states()
    written = torch.load(folder / "last.ckpt", weights_only=True)
    if processes.first:
        torch.testing.assert_close([weights, adam], [written["weights"], written["adam"]], rtol=0, atol=0)
    else:
        assert not weights
        assert not adam


def errors_are_shared(processes: Processes) -> None:
    """What is raised in one process ends the block in both; the one that has the error tells it."""
    for failing in (0, 1):
        try:
            with processes.together():
                if processes.rank == failing:
                    raise DataError("broken")
        except DataError:
            assert processes.rank == failing
        except PeerError:
            assert processes.rank != failing
        else:
            raise AssertionError("the block was left as if nothing had happened")
    assert processes.of_first(lambda: processes.rank) == 0


def stopped_by_a_signal_to_one(folder: Path) -> None:
    """Both save the step at which the signal came to the second one."""
    learn = Learner.learn

    def interrupted(self: Learner, number: int, *batch: Any) -> dict[str, Tensor]:
        losses = learn(self, number, *batch)
        if number + 1 == 3 and not self.processes.first:
            signal.raise_signal(signal.SIGTERM)
        return losses

    Learner.learn = interrupted  # type: ignore[method-assign,assignment]  # for this test
    assert main([*SMALL, "--output", str(folder)]) == 128 + signal.SIGTERM
    Learner.learn = learn  # type: ignore[method-assign]  # as above


if __name__ == "__main__":
    root = Path(sys.argv[1])
    learner_module.normalize = precise
    one_step_equals_one_process("ddp", (4, 4))
    one_step_equals_one_process("ddp", (5, 3))
    one_step_equals_one_process("fsdp", (4, 4))
    learner_module.normalize = normalize
    errors_are_shared(Processes(make_fabric(parse(SMALL))))
    assert main([*SMALL, "--output", str(root / "through")]) == 0
    stopped_by_a_signal_to_one(root / "stopped")
    assert main([*SMALL, "--output", str(root / "stopped"), "--resume"]) == 0
    assert main([*SMALL, "--output", str(root / "sharded"), "--max-steps", "2", "--strategy", "fsdp"]) == 0
    a_checkpoint_is_taken_up_as_it_is(root / "through", "fsdp")
    a_checkpoint_is_taken_up_as_it_is(root / "sharded", "ddp")
