"""Other libraries' own ways to train an image classifier from nothing within a time, for `peers.py`.

    python scripts/peer_libraries.py ultralytics --budget 60 --images FOLDER --seed 0

FOLDER has train/, val/ and test/, each with a folder of image files for every class. The library trains in this
process, whose start begins the budget. The last line of the output is JSON: accuracy on test/, epochs, wall_seconds.

Each library trains as its documentation shows, with its own augmentation, optimizer and schedule. Its last weights are
scored, not those that were best on other images.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from timing import Budget


def ultralytics(clock: Budget, images: Path, seed: int) -> dict[str, Any]:
    """Ultralytics' classifier yolo11n-cls, at 32 pixels, stopped by its argument `time`."""
    os.environ["YOLO_OFFLINE"] = "true"
    from ultralytics import YOLO  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as out:
        model = YOLO("yolo11n-cls.yaml", task="classify")
        model.train(
            data=str(images),
            time=clock.remaining() / 3600,
            imgsz=32,
            batch=128,
            cache="ram",
            seed=seed,
            plots=False,
            project=out,
            name="run",
        )
        wall = clock.elapsed()
        metrics = YOLO(Path(out) / "run/weights/last.pt").val(data=str(images), split="test", imgsz=32, project=out)
        return {"accuracy": float(metrics.top1), "epochs": model.trainer.epoch + 1, "wall_seconds": wall}


def fastai(clock: Budget, images: Path, seed: int) -> dict[str, Any]:
    """fastai's ResNet-18 and one-cycle schedule, for as many epochs as fit.

    fastai has no time limit. So one epoch is trained first to see how long it takes, and is thrown away.
    """
    from fastai.metrics import accuracy  # type: ignore[import-not-found]
    from fastai.torch_core import set_seed  # type: ignore[import-not-found]
    from fastai.vision.all import (  # type: ignore[import-not-found]
        ImageDataLoaders,
        aug_transforms,
        get_image_files,
        resnet18,
        vision_learner,
    )

    set_seed(seed)
    augmentation = aug_transforms(size=32)
    loaders = ImageDataLoaders.from_folder(images, train="train", valid="val", bs=128, batch_tfms=augmentation)

    def learner() -> Any:
        return vision_learner(loaders, resnet18, pretrained=False, metrics=accuracy)

    begun = clock.elapsed()
    with learner().no_bar() as first:
        first.fit_one_cycle(1, 1e-2)
    epochs = max(1, int(clock.remaining() / (clock.elapsed() - begun)))
    files = get_image_files(images / "test")
    with learner().no_bar() as model:
        model.fit_one_cycle(epochs, 1e-2)
        wall = clock.elapsed()
        probabilities, _ = model.get_preds(dl=loaders.test_dl(files))
    names = [loaders.vocab[place] for place in probabilities.argmax(1).tolist()]
    right = sum(name == file.parent.name for name, file in zip(names, files, strict=True))
    return {"accuracy": right / len(files), "epochs": epochs, "wall_seconds": wall}


LIBRARIES = {"ultralytics": ultralytics, "fastai": fastai}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=LIBRARIES)
    parser.add_argument("--budget", type=float, required=True, help="seconds from the start of this process")
    parser.add_argument("--images", type=Path, required=True, help="folder with train/, val/ and test/")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    clock = Budget.since_process_start(options.budget)
    train = LIBRARIES[options.name]
    print(json.dumps(train(clock, options.images, options.seed)))


if __name__ == "__main__":
    main()
