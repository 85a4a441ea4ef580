"""Two processes do what one does on the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

WORKER = """
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from blan_layers import LMIMLoss

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group(
    "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
torch.manual_seed(0)
maps, sources = torch.randn(6, 6, 3, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
groups = torch.tensor([0, 1, 0, 1, 2, 2])
mine = slice(3 * rank, 3 * rank + 3)


class Training(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        torch.manual_seed(1)
        self.encoder = torch.nn.Conv1d(6, 6, 1, dtype=torch.float64)
        self.head = torch.nn.Linear(5, 4, dtype=torch.float64)
        self.loss = LMIMLoss(6, 4, hidden_channels=8, dtype=torch.float64, **options)

    def forward(self, maps, sources, groups=None):
        return self.loss(self.encoder(maps), self.head(sources), groups=groups)


def gradients(module):
    return [parameter.grad.clone() for parameter in module.parameters()]


def parallel(groups=None, part=mine, **options):
    module = Training(**options).eval()
    wrapped = DistributedDataParallel(module)
    loss = wrapped(maps[part], sources[part], groups if groups is None else groups[part])
    loss.backward()
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total, gradients(module)


def alone(groups=None, blocks=False, **options):
    module = Training(**options).eval()
    if blocks:  # the negatives of each process are of its own batch
        loss = (module(maps[:3], sources[:3]) + module(maps[3:], sources[3:])) / 2
    else:
        loss = module(maps, sources, groups)
    loss.backward()
    return loss.detach(), gradients(module)


def same(ours, truth, scale=1.0):
    torch.testing.assert_close(ours[0] / 2, truth[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close([scale * g for g in ours[1]], truth[1], rtol=1e-9, atol=1e-12)


every = {"negatives": "all"}
same(parallel(), alone(blocks=True))
same(parallel(objective="infonce", gather=True, **every), alone(objective="infonce", **every))
same(parallel(objective="nwj", gather=True, **every), alone(objective="nwj", **every))
same(parallel(groups, objective="infonce", gather=True, **every), alone(groups, objective="infonce", **every))

clip = {"objective": "infonce", "symmetric": True, "gather": True, **every}
same(parallel(**clip), alone(**clip | {"gather": False}))
for positives in ("own", "groups"):
    options = clip | {"positives": positives}
    same(parallel(groups, **options), alone(groups, **options | {"gather": False}))

# A sum over locations has its gradients divided by the number of processes: the wrapper takes their mean.
ours = parallel(objective="infonce", gather=True, reduction="sum", **every)
truth = alone(objective="infonce", reduction="sum", **every)
same((2 * ours[0], ours[1]), truth, scale=2.0)

# Batches of four and of two are six candidates for both processes.
unequal = slice(0, 4) if rank == 0 else slice(4, 6)
for given in (None, groups):
    ours = parallel(given, unequal, objective="infonce", gather=True, reduction="sum", **every)
    same((2 * ours[0], ours[1]), alone(given, objective="infonce", reduction="sum", **every), scale=2.0)
    options = clip | {"reduction": "sum"}
    ours = parallel(given, unequal, **options)
    same((2 * ours[0], ours[1]), alone(given, **options | {"gather": False}), scale=2.0)

# So do the second derivatives: here, those of a penalty on the gradient of the summaries.
def penalty(part=slice(None), **options):
    loss = Training(objective="infonce", reduction="sum", **options, **every).eval().loss
    given = sources[part, :4].clone().requires_grad_()
    (first,) = torch.autograd.grad(loss(maps[part], given), given, create_graph=True)
    wanted = [given, loss.critic.fc1.weight, loss.critic.fc2.weight, loss.critic.fc3.weight]
    return torch.autograd.grad(first.square().sum(), wanted)


of_given, *of_weights = penalty(mine, gather=True)
for gradient in of_weights:
    dist.all_reduce(gradient)
truths = penalty()
torch.testing.assert_close([of_given, *of_weights], [truths[0][mine], *truths[1:]], rtol=1e-9, atol=1e-12)

# Without gathering, each process ranks among its own summaries alone: another loss.
assert not torch.allclose(parallel(objective="infonce", **every)[0] / 2, truth[0])

# All processes remember all summaries, and one image each is enough.
loss = LMIMLoss(6, 4, hidden_channels=8, dtype=torch.float64, negatives="queue", queue_size=8, gather=True)
loss(maps[mine], sources[mine, :4], groups=groups[mine])
assert torch.equal(loss.queue.stored[:6], sources[:, :4])
assert torch.equal(loss.queue.groups[:6], groups)
assert loss(maps[mine][:1], sources[mine, :4][:1]).isfinite()
queues = [torch.empty_like(loss.queue.stored) for _ in range(2)]
dist.all_gather(queues, loss.queue.stored)
assert torch.equal(*queues)  # though it was filled beyond its size
dist.destroy_process_group()
print("done")
"""


def test_two_processes_equal_one_on_the_joined_batch(repository: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=repository,
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        outputs = [run.communicate(timeout=120) for run in runs]
    finally:
        for run in runs:
            run.kill()
    for run, (out, err) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, err
        assert out.strip().endswith("done")
