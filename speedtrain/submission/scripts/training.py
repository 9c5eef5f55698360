"""Trains on labelled images within the budget, saving as it goes.

    python training.py --data TRAIN.npz --net_sav CKPT [--budget 600] [--seed 0]

TRAIN.npz holds `images` uint8 [N, H, W, C] and `labels` int [N]. Without --data, the script trains on CIFAR-10 in the
form that torchvision downloads. The budget counts from the start of this process. A kill at any instant leaves the
weights that were saved last intact.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from speedtrain.errors import UserError
from speedtrain.machine import available_cores
from speedtrain.training.members import train_members
from speedtrain.training.process import MALLOC_SETTINGS
from speedtrain.training.worker import train
from timing import Ledger


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", metavar="TRAIN.npz", type=Path)
    parser.add_argument("--net_sav", metavar="CKPT", type=Path, required=True)
    parser.add_argument("--budget", metavar="SECONDS", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEED", 0)))
    options = parser.parse_args()
    if "GLIBC_TUNABLES" not in os.environ:  # glibc reads it when a program starts, so this process starts again
        os.environ["GLIBC_TUNABLES"] = MALLOC_SETTINGS
        os.execv(sys.executable, sys.orig_argv)

    ledger = Ledger()
    with ledger.phase("import"):
        import yaml

        from speedtrain.config import Config
        from speedtrain.data import load_data, load_images
        from speedtrain.data.configured import core_seconds
        from speedtrain.device import find_device
        from speedtrain.member_configs import with_shares
    with ledger.phase("data"):
        recipe = yaml.safe_load(Path(__file__).with_name("recipe.yaml").read_text(encoding="utf-8"))
        config = Config(**{**recipe, "budget": options.budget, "seed": options.seed})
        config.device, _ = find_device()
        config.threads = available_cores()
        folder = Path(__file__).with_name("members")
        own = [folder / f"{number}.yaml" for number in range(1, len(list(folder.glob("*.yaml"))) + 1)]
        members = with_shares([Config(**yaml.safe_load(file.read_text(encoding="utf-8"))) for file in own], config)
        side = config.named_side
        if options.data is None:
            cifar10 = load_data("cifar10", per_class=config.per_class, side=side).train
            images, labels, classes = cifar10.images, cifar10.labels, cifar10.classes
        else:
            images, read_labels, names = load_images(
                options.data, need_labels=True, side=side, fit=config.fit, core_seconds=core_seconds(config)
            )
            assert read_labels is not None
            labels, classes = read_labels, names or tuple(map(str, range(int(read_labels.max()) + 1)))
    with tempfile.TemporaryDirectory(prefix="speedtrain-") as temporary:
        records, weights = Path(temporary), options.net_sav.absolute()
        jobs = records / "jobs"
        if config.members:
            seen = train_members(
                members, images, labels, classes, records, ledger=ledger, scratch=jobs, weights=weights
            )
        else:  # members in place of one network, if any, are the planner's choice
            seen = train(
                config,
                images,
                labels,
                classes,
                records,
                ledger=ledger,
                weights=weights,
                or_members=members,
                scratch=jobs,
            )
    print(f"images_seen: {seen}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"training.py: {error}", file=sys.stderr)
        sys.exit(2)
    sys.stdout.flush()
    os._exit(0)  # the budget would pay for the interpreter's cleanup
