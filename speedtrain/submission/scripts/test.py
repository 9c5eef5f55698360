"""Predicts images with the weights that `training.py` saved.

    python test.py --data IMAGES.npz --net_sav CKPT --predictions OUT.npy

IMAGES.npz holds `images` uint8 [N, H, W, C], and may hold `labels`. Without --data, the script predicts the test images
of CIFAR-10 in the form that torchvision downloads. It writes OUT.npy, int64 [N], one class index per image. If there
are labels, it prints the accuracy.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
import torch

from speedtrain.data import load_data, load_images
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.machine import available_cores
from speedtrain.model.load import load


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", metavar="IMAGES.npz", type=Path)
    parser.add_argument("--net_sav", metavar="CKPT", type=Path, required=True)
    parser.add_argument("--predictions", metavar="OUT.npy", type=Path)
    options = parser.parse_args()

    model = load(options.net_sav)
    if options.data is None:
        test = load_data("cifar10", side=model.side).test
        images, labels = test.images, test.labels
    else:
        images, read_labels, _ = load_images(options.data, side=model.side, fit=model.fit, pixel_max=model.pixel_max)
        labels = np.empty(0) if read_labels is None else read_labels
    torch.set_num_threads(available_cores())
    predicted = model.predict_all(images).probabilities.argmax(1).astype(np.int64)
    if options.predictions is not None:
        content = io.BytesIO()
        np.save(content, predicted)
        write_atomic(options.predictions, content.getvalue())
    if len(labels):
        print(f"accuracy: {(predicted == labels).mean():.4f}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"test.py: {error}", file=sys.stderr)
        sys.exit(2)
