"""The images that a configuration names."""

from pathlib import Path
from typing import Any

from speedtrain.config import AUTO, DATA_SETS, IN_MEMORY, TORCHVISION, Config
from speedtrain.data.image_files import Progress
from speedtrain.data.load import load_data
from speedtrain.data.source import Data
from speedtrain.errors import UserError
from speedtrain.machine import available_cores


def load_configured(config: Config, data: Any = None, test: Any = None, progress: Progress | None = None) -> Data:
    """Loads the images that were given as arrays, or those that the configuration names.

    In `config`, paths become absolute, and `auto` becomes the data set that was found, the side of its images and their
    white: its `config.yaml` then means the same later, and from another folder.

    Args:
        data, test: (images, labels) as given by the caller; anything else is taken from `config`.
        progress: as for `load_data`. Default: none.

    Raises:
        UserError: as for `load_data`, or the images of the configuration were arrays.
    """
    for key in ("data", "test", "data_root"):
        setattr(config, key, _absolute(getattr(config, key)))
    given, given_test = _in_memory(data), _in_memory(test)
    for option, name, arrays in (("--data", config.data, given), ("--test", config.test, given_test)):
        if name == IN_MEMORY and arrays is None:
            what = f"{option}: the run's images came from Python, not from a file"
            raise UserError(f"{what}: it cannot be replayed, and as a recipe it needs {option} PATH")
    loaded = load_given(config, given, given_test, progress=progress)
    if config.data == AUTO:
        config.data = loaded.train.name
    config.side = loaded.side
    config.pixel_max = loaded.train.pixel_max or config.pixel_max
    config.data_root = _absolute(loaded.root)
    config.labels = loaded.labels  # type: ignore[assignment]  # one of the ways
    return loaded


def load_given(
    config: Config,
    data: Any,
    test: Any,
    *,
    all_images: bool = False,
    holdout: bool = True,
    progress: Progress | None = None,
) -> Data:
    """The images given, or those that the configuration names, in the form that it asks for.

    Args:
        config: names the images where `data` or `test` is None.
        data: training images. None: the configuration's.
        test: test images. None: the configuration's.
        all_images: load all training images, whatever the configuration's `per_class`. Default: as many as it says.
        holdout, progress: as for `load_data`. Default: with a holdout, no progress.

    Raises:
        UserError: the images cannot be loaded.
    """
    return load_data(
        config.data if data is None else data,
        config.test if test is None else test,
        per_class="all" if all_images else config.per_class,
        data_root=config.data_root,
        side=config.named_side,
        fit=config.fit,
        pixel_max=config.named_pixel_max,
        columns=config.columns,
        with_validation=config.with_validation,
        skip_unreadable=config.skip_unreadable,
        core_seconds=core_seconds(config),
        progress=progress,
        labels=config.labels,
        seed=config.seed,
        holdout=holdout,
    )


def core_seconds(config: Config) -> float | None:
    """Seconds of training times cores, to decide the side of the images by; None where a side is named, and on a GPU,
    for which they are no measure."""
    if config.named_side is not None:
        return None
    from speedtrain.device import find_device  # imports torch

    if find_device(config.device)[0] != "cpu":
        return None
    return config.budget * min(config.threads or available_cores(), available_cores())


def source_name(source: Any) -> str | None:
    """What a configuration calls images that were given as a name, a path, or arrays; None stays None."""
    if _in_memory(source) is not None:
        return IN_MEMORY
    return None if source is None else str(source)


def _in_memory(source: Any) -> Any:
    """Images given as arrays; None where they are named."""
    return None if source is None or isinstance(source, str | Path) else source


def _absolute(path: str | None) -> str | None:
    if path is None or path in (*DATA_SETS, IN_MEMORY) or path.startswith(TORCHVISION):
        return path
    return str(Path(path).absolute())
