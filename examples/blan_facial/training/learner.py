"""A network trained on its device: the step, the optimisers, and the states for a checkpoint."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from blan_facial.config import Config
from blan_facial.data.loading import normalize
from blan_facial.machines.processes import Processes
from blan_facial.machines.sharding import load_whole_states, whole_states
from blan_facial.network.model import BLAN, Network
from blan_facial.network.objective import Objective
from blan_facial.training.checkpoint import States


class TrainingStep(nn.Module):
    """Model and objective as one module that maps a batch of uint8 images to the losses."""

    def __init__(self, model: Network, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(
        self, images: Tensor, labels: Tensor, counted: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total loss, and all its parts detached."""
        inputs = normalize(images)
        features = self.model(inputs, reconstruct=self.model.reconstructs)
        losses = self.objective(features, inputs, labels, counted)
        return losses.total, losses.logged()


class Counted(NamedTuple):
    """Factors for the means over a process's share of a batch, so that their average over the processes is the batch's.

    Unequal shares are weighted by their sizes.
    """

    images: float = 1.0
    labels: float = 1.0


class Learner:
    """A model and its objective, trained by Adam, with SGD for the fusion weights.

    The random numbers of a step (dropout, negatives) depend on the run's seed, the step and the process.

    Args:
        config: The settings of the run.
        fabric: Device and precision, from :func:`blan_facial.machines.devices.make_fabric`.
        processes: The processes that train together.
        model: The network, on the CPU.
        objective: The objective to minimise.

    Attributes:
        step: Model and objective on the device, wrapped for training on several devices.
    """

    def __init__(
        self, config: Config, fabric: Fabric, processes: Processes, model: Network, objective: Objective
    ) -> None:
        self.config = config
        self.fabric = fabric
        self.processes = processes
        self.model = model
        self.objective = objective
        step: nn.Module = TrainingStep(model, objective)
        step = step.to(memory_format=model.encoder.memory_format)  # type: ignore[call-overload]  # torch types Module.to without it
        self.unwrapped = step
        sharded = processes.count > 1 and config.strategy == "fsdp"
        self._whole: Network | None = copy.deepcopy(model).to(fabric.device) if sharded else None
        if config.sync_batch_norm:
            step = nn.SyncBatchNorm.convert_sync_batchnorm(step)
        if config.compile:
            step = torch.compile(step)  # type: ignore[assignment]  # a module that wraps the compiled step
        self.step = fabric.setup_module(step)
        fusion = [] if model.fusion is None else list(model.fusion.parameters())
        others = [parameter for parameter in step.parameters() if all(parameter is not weight for weight in fusion)]
        heads = {id(weight) for weight in model.classifiers.parameters()} if isinstance(model, BLAN) else set()
        groups = [
            {"params": [weight for weight in others if (id(weight) in heads) is of_heads], "factor": factor}
            for of_heads, factor in ((False, 1.0), (True, config.classifier_lr))
        ]
        used = [group for group in groups if group["params"]]
        self.adam = torch.optim.Adam(used, lr=config.lr, fused=fabric.device.type == "cuda" or None)
        self.optimizers: list[torch.optim.Optimizer] = [self.adam]
        if fusion and config.gamma:  # without this loss the fusion weights have no gradient
            self.optimizers.append(torch.optim.SGD(fusion, lr=config.fusion_lr))
        scaler = getattr(fabric.strategy.precision, "scaler", None)
        self.scaler = scaler or torch.amp.GradScaler(fabric.device.type, enabled=False)

    def learn(self, number: int, lr: float, images: Tensor, labels: Tensor, counted: Counted) -> dict[str, Tensor]:
        """Take a step and return all parts of its loss.

        Args:
            number: The step's number.
            lr: Adam's learning rate.
            images: uint8 (B, 3, H, W).
            labels: int64 (B, N).
            counted: Weights of this process's share of the batch relative to the others'.
        """
        place = [self.config.seed, number, self.processes.rank]
        torch.manual_seed(int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0]))
        for group in self.adam.param_groups:
            group["lr"] = lr * group["factor"]
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        losses: dict[str, Tensor]
        factors = None if counted == (1, 1) else self.fabric.to_device(torch.tensor(counted))
        total, losses = self.step(self.fabric.to_device(images), self.fabric.to_device(labels), factors)
        self.fabric.backward(total)
        if self.config.clip_norm is not None:
            self.scaler.unscale_(self.adam)
            clipped = [weight for group in self.adam.param_groups for weight in group["params"]]
            torch.nn.utils.clip_grad_norm_(clipped, self.config.clip_norm)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return losses

    def whole_model(self) -> Network:
        """Return the current model, unsharded and identical in all processes, which must call this together."""
        self.processes.spread_buffers(self.model)
        if self._whole is None:
            return self.model
        self._whole.load_state_dict(get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True)))
        return self._whole

    def states(self) -> States:
        """Return the states, unsharded in the first process; all processes must call this together."""
        return States(*whole_states(self.unwrapped, self.adam), self.scaler.state_dict())

    def load(self, states: States) -> str:
        """Load states, and return "" or what is wrong with them; all processes must call this together."""
        try:
            load_whole_states(self.unwrapped, self.adam, states.weights, states.adam)
            self.scaler.load_state_dict(states.scaler)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # from torch
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return ""
