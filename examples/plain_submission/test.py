"""Predicts images with the weights that training.py saved."""

import argparse

import numpy as np
import torch
from network import build

parser = argparse.ArgumentParser()
parser.add_argument("--data", required=True)
parser.add_argument("--net_sav", required=True)
parser.add_argument("--predictions", required=True)
arguments = parser.parse_args()

saved = torch.load(arguments.net_sav, weights_only=True)
model = build(saved["num_classes"])
model.load_state_dict(saved["model"])
model.eval()
with np.load(arguments.data) as data:
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 255
with torch.inference_mode():
    predicted = torch.cat([model(part).argmax(1) for part in images.split(500)])
np.save(arguments.predictions, predicted.numpy().astype(np.int64))
