"""Trains a small convolutional network in plain PyTorch until the budget is used up, and saves every two seconds."""

import argparse
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from network import build

started = time.monotonic()

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--net_sav", required=True)
parser.add_argument("--budget", type=float, default=600.0)
arguments = parser.parse_args()

torch.manual_seed(int(os.environ.get("SEED", 0)))
with np.load(arguments.data) as data:
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 255
    labels = torch.from_numpy(data["labels"])
num_classes = int(labels.max()) + 1
model = build(num_classes)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def save() -> None:
    """Saves so that a kill at any instant leaves a complete file: it gets its name when all of it is written."""
    torch.save({"model": model.state_dict(), "num_classes": num_classes}, arguments.net_sav + ".part")
    os.replace(arguments.net_sav + ".part", arguments.net_sav)


# the budget also pays for the imports, which came before `started`, and for the last save
end = arguments.budget - 3.0 - 0.02 * arguments.budget
seen = saved = 0.0
while (seconds := time.monotonic() - started) < end:
    optimizer.param_groups[0]["lr"] = 0.05 * (1 - seconds / end)
    batch = torch.randint(len(images), (64,))
    loss = F.cross_entropy(model(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    seen += len(batch)
    if seconds - saved > 2 or not saved:
        save()
        saved = seconds
        print(f"{seconds:.1f} s: loss {loss.item():.3f}")
save()
print(f"images_seen: {seen:.0f}")
