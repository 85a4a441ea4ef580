"""The devices of a run: detection, division of the work, and precision."""

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
"""Environment variables that torchrun or our own launcher sets for each process."""


class Layout(NamedTuple):
    """Number of processes of a run, one per device."""

    local: int
    """Processes per machine."""
    nodes: int
    """Machines."""

    @property
    def processes(self) -> int:
        """Processes on all machines."""
        return self.local * self.nodes


def launched() -> bool:
    """Return whether torchrun or our own launcher started this process as one of several."""
    return all(name in os.environ for name in ENVIRONMENT)


def rank() -> int:
    """Return the rank of this process within the run; rank 0 writes and prints."""
    return int(os.environ["RANK"]) if launched() else 0


def layout(config: Config) -> Layout:
    """Return the number of processes per machine and of machines of a run.

    Raises:
        ConfigError: The accelerator or the number of devices is not available, the accelerator does not support the
            precision, the devices cannot share the work as requested, or torchrun started other processes than
            requested.
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
    """Return the Fabric of a run (device, precision, processes), and set PyTorch's fast settings for the device.

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
        torch.backends.cudnn.benchmark = True  # all training batches have the same shape
        torch.set_float32_matmul_precision("high")  # TF32, as for convolutions
    return fabric


def _kind(config: Config) -> str:
    """Return the device type of a run."""
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
                f"train: --{option} must agree with torchrun ({there}), got {asked}. Give --{option} {there}."
            )
    return found


def _layout_of_this_machine(config: Config, kind: str) -> Layout:
    if config.nodes > 1:
        raise ConfigError(
            f"train: --nodes {config.nodes} needs torchrun, which connects the machines, got a plain start. On each "
            f"machine run torchrun --nnodes {config.nodes} --nproc-per-node DEVICES --rdzv-backend c10d "
            "--rdzv-endpoint HOST:PORT instead of python."
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
    """Refuse settings that cannot be divided among this number of processes."""
    if count > 1 and (config.batch_size % count or config.batch_size < 2 * count):
        raise ConfigError(
            f"train: --batch-size must give {count} equal shares of at least 2 images, one per device, "
            f"got {config.batch_size}. Use {max(2, config.batch_size // count) * count}, for example."
        )
    if config.strategy == "fsdp" and count == 1:
        raise ConfigError("train: --strategy fsdp needs several devices, got 1. Leave it out.")
    if config.sync_batch_norm and kind != "cuda":
        raise ConfigError(f"train: --sync-batch-norm needs CUDA, got {kind}, for which PyTorch has none. Leave it out.")
    if config.sync_batch_norm and count == 1:
        raise ConfigError("train: --sync-batch-norm needs several devices, got 1. Leave it out.")


def _strategy(config: Config, count: int) -> Strategy:
    if config.strategy == "fsdp":
        return ModelParallelStrategy(shard, data_parallel_size=count, tensor_parallel_size=1, timeout=TIMEOUT)
    return DDPStrategy(
        timeout=TIMEOUT,
        gradient_as_bucket_view=True,
        find_unused_parameters=config.fusion and not config.gamma,  # untrained fusion weights
    )
