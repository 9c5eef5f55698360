"""SAM, gradient centralization and meta warm-up in two processes that share their gradients."""

import os
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from tricks import SAM, Batch, GradientCentralization, MetaWarmup

STEPS, SHARE = 3, 8
CASES = {
    "sam, centralization": (False, (SAM(rho=0.2), GradientCentralization())),
    "all three": (False, (SAM(rho=0.2), MetaWarmup(alpha=0.1, fraction=1.0), GradientCentralization())),
    "all three, batch norm": (True, (SAM(rho=0.2), MetaWarmup(alpha=0.1, fraction=1.0), GradientCentralization())),
}


def network(norm):
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))


def train(model, trained, batches, tricks):
    """Plain training with the tricks; `trained` is `model` or what distributes it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)

    def compute(batch):
        optimizer.zero_grad()
        loss = F.cross_entropy(trained(batch.images), batch.targets)
        loss.backward()
        return loss.detach()

    for trick in tricks:
        compute = trick.gradient(compute, model)
    for batch in batches:
        compute(batch)
        optimizer.step()
    return model.state_dict()


def batches(rank=None):
    """Batches of one rank, or of both: the first halves of both ranks are then the first half."""
    generator = torch.Generator().manual_seed(2)
    for step in range(STEPS):
        images = torch.randn(2, 2, SHARE // 2, 3, 8, 8, generator=generator)  # half of the batch, rank, image
        targets = torch.randint(4, (2, 2, SHARE // 2), generator=generator)
        ranks = slice(None) if rank is None else slice(rank, rank + 1)
        yield Batch(images[:, ranks].flatten(0, 2), targets[:, ranks].flatten(), step=step)


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    weights = {}
    for name, (norm, tricks) in CASES.items():
        model = network(norm)
        weights[name] = train(model, DistributedDataParallel(model), batches(rank), tricks)
    torch.save(weights, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def test_two_ranks_agree_with_each_other_and_with_one_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, (norm, tricks) in CASES.items():
        parameters = dict(network(norm).named_parameters())
        model = network(norm)
        alone = train(model, model, batches(), tricks)
        for key, start in parameters.items():
            assert torch.equal(one[name][key], two[name][key]), (name, key)
            assert not torch.equal(one[name][key], start), (name, key)
            if not norm:  # batch norm sees only its own rank's images
                torch.testing.assert_close(one[name][key], alone[key], rtol=0, atol=1e-6)


if __name__ == "__main__":
    work(int(sys.argv[1]), sys.argv[2])
