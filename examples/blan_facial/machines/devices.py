"""The devices of a run: which there are, how they share the work, and how fast they may compute."""

import os
from typing import NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy, ModelParallelStrategy, Strategy

from blan_facial.config import Config, ConfigError
from blan_facial.machines.processes import TIMEOUT
from blan_facial.machines.sharding import shard

ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun, or our own launcher, tells each process that it starts."""


class Layout(NamedTuple):
    """Processes of a run, one for each device."""

    local: int
    """On each machine."""
    nodes: int
    """Machines."""

    @property
    def processes(self) -> int:
        """On all machines."""
        return self.local * self.nodes


def launched() -> bool:
    """Tell whether this process is one of several that torchrun or our own launcher started."""
    return all(name in os.environ for name in ENVIRONMENT)


def rank() -> int:
    """Return the number of this process among those of the run; 0 is the one that writes and prints."""
    return int(os.environ["RANK"]) if launched() else 0


def layout(config: Config) -> Layout:
    """Return how many processes a run has on how many machines.

    Raises:
        ConfigError: This machine lacks the accelerator or so many devices, the accelerator lacks the precision, the
            devices cannot share the work as they were told to, or torchrun started other processes than were asked for.
    """
    kind = _kind(config)
    if config.accelerator not in ("auto", kind):
        raise ConfigError(
            f"train: --accelerator {config.accelerator} is not available here, got no such device. "
            "Use --accelerator auto."
        )
    _check_precision(config, kind)
    processes = _layout_of_torchrun(config) if launched() else _layout_of_this_machine(config, kind)
    _check_shares(config, kind, processes.processes)
    return processes


def make_fabric(config: Config) -> Fabric:
    """Return device, precision and processes of a run, with the settings of PyTorch that are fast there.

    Raises:
        ConfigError: As in :func:`layout`.
    """
    processes = layout(config)
    kind = _kind(config)
    if processes.processes == 1:
        fabric = Fabric(accelerator=kind, devices=1, precision=config.precision)
    else:
        fabric = Fabric(
            accelerator=kind,
            devices=processes.local,
            num_nodes=processes.nodes,
            strategy=_strategy(config, processes.processes),
            precision=config.precision,
            plugins=[TorchElasticEnvironment()],
        )
        fabric.launch()
    if kind == "cuda":
        torch.backends.cudnn.benchmark = True  # all batches of training have one shape
        torch.set_float32_matmul_precision("high")  # TF32, as convolutions have it
    return fabric


def _kind(config: Config) -> str:
    """Return the kind of devices that a run gets."""
    if config.accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda"
    if config.accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def _check_precision(config: Config, kind: str) -> None:
    if config.precision == "16-mixed" and kind != "cuda":
        raise ConfigError("train: --precision 16-mixed needs CUDA, got none. Use bf16-mixed or 32-true.")
    if config.precision == "bf16-mixed" and kind == "cpu" and config.image_size < 64:
        raise ConfigError(
            f"train: --precision bf16-mixed on a CPU needs --image-size 64 or more, got {config.image_size}: PyTorch's "
            "bfloat16 gradient of a convolution over a single pixel is wrong there. Use 32-true."
        )


def _layout_of_torchrun(config: Config) -> Layout:
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    found = Layout(local, int(os.environ["WORLD_SIZE"]) // local)
    for option, there, asked in (("devices", found.local, config.devices), ("nodes", found.nodes, config.nodes)):
        if asked not in (there, "auto"):
            raise ConfigError(
                f"train: --{option} must agree with torchrun, {there}, got {asked}. Give --{option} {there}."
            )
    return found


def _layout_of_this_machine(config: Config, kind: str) -> Layout:
    if config.nodes > 1:
        raise ConfigError(
            f"train: --nodes {config.nodes} needs torchrun, which connects the machines, got a plain start. On each of "
            f"them run torchrun --nnodes {config.nodes} --nproc-per-node DEVICES --rdzv-backend c10d --rdzv-endpoint "
            "HOST:PORT instead of python."
        )
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if config.devices == "auto":
        return Layout(there, 1)
    if kind != "cpu" and config.devices > there:
        raise ConfigError(
            f"train: --devices must be at most the number of {kind} devices here, {there}, got {config.devices}. "
            "Give fewer, or auto."
        )
    return Layout(config.devices, 1)


def _check_shares(config: Config, kind: str, count: int) -> None:
    """Refuse what cannot be shared among so many processes."""
    if config.batch_size % count or config.batch_size < 2 * count:
        raise ConfigError(
            f"train: --batch-size must give {count} equal shares of at least 2 images, one per device, "
            f"got {config.batch_size}. Use {max(2, config.batch_size // count) * count}, for example."
        )
    if config.strategy == "fsdp" and count == 1:
        raise ConfigError("train: --strategy fsdp needs several devices, got 1. Leave it out.")
    if config.sync_batch_norm and kind != "cuda":
        raise ConfigError(
            f"train: --sync-batch-norm needs CUDA, got {kind}, which PyTorch does not support here. Leave it out."
        )
    if config.sync_batch_norm and count == 1:
        raise ConfigError("train: --sync-batch-norm needs several devices, got 1. Leave it out.")


def _strategy(config: Config, count: int) -> Strategy:
    if config.strategy == "fsdp":
        return ModelParallelStrategy(shard, data_parallel_size=count, tensor_parallel_size=1, timeout=TIMEOUT)
    return DDPStrategy(
        timeout=TIMEOUT,
        gradient_as_bucket_view=True,
        find_unused_parameters=config.fusion and not config.gamma,  # fusion weights that nothing trains
    )
