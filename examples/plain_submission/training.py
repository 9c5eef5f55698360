"""Trains a small convolutional network in plain PyTorch until the budget is used up, and saves every two seconds."""

import time

started = time.monotonic()  # before the imports, which the budget pays for as well

import argparse  # noqa: E402
import os  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from network import build  # noqa: E402

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


# the budget also pays for the start of Python, which came before `started`, and for the last save and the exit
end = arguments.budget - 1.5 - 0.02 * arguments.budget
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
