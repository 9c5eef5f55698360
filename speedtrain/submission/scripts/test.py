"""Predicts images with the weights that `training.py` saved.

    python test.py --data IMAGES.npz --net_sav CKPT --predictions OUT.npy

IMAGES.npz holds `images` uint8 [N, H, W, C], and may hold `labels`; without it, the test images of CIFAR-10 as
torchvision keeps it. OUT.npy gets int64 [N], a class index an image. With labels, the accuracy is printed.
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
from speedtrain.model.load import load_model
from speedtrain.model.predict import predict


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", metavar="IMAGES.npz", type=Path)
    parser.add_argument("--net_sav", metavar="CKPT", type=Path, required=True)
    parser.add_argument("--predictions", metavar="OUT.npy", type=Path)
    told = parser.parse_args()

    if told.data is None:
        test = load_data("cifar10").test
        images, labels = test.images, test.labels
    else:
        images, given, _ = load_images(told.data)
        labels = np.empty(0) if given is None else given
    torch.set_num_threads(available_cores())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predicted = predict(load_model(told.net_sav), images, device).argmax(1).astype(np.int64)
    if told.predictions is not None:
        content = io.BytesIO()
        np.save(content, predicted)
        write_atomic(told.predictions, content.getvalue())
    if len(labels):
        print(f"accuracy: {(predicted == labels).mean():.4f}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"test.py: {error}", file=sys.stderr)
        sys.exit(2)
