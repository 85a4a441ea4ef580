"""What all tests share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

# The tensors of tests are small: a second thread costs more than it gives, above all beside another process.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Read when Triton's kernels are defined: without a GPU they are interpreted, one operation at a time.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


# What is not written is NaN: a result that depends on it is not right by chance.
torch.use_deterministic_algorithms(mode=True)
torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]  # torch has no stubs for it


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what the tests draw out of the user's cache."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of every size are large to the automatic choice, and 1x1 convolutions are products."""
    monkeypatch.setattr("blan_layers.kernels.cpu.products.multiplies", lambda x, weight: x.is_contiguous())
    monkeypatch.setattr("blan_layers.functional.attention.core_cache_bytes", lambda: 0)
    monkeypatch.setattr("blan_layers.functional.attention.block_bytes", lambda: 0)
    monkeypatch.setattr("blan_layers.functional.mutual_information.core_cache_bytes", lambda: 0)


@pytest.fixture
def mesh() -> Iterator[Any]:
    """One process that shards among itself."""
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()
