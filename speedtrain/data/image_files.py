"""Many image files → one array: all cores, the cache, progress, and the files that cannot be read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from speedtrain.data.cache import ImageCache, cache_folder, image_key
from speedtrain.data.mapped import empty_images, take
from speedtrain.data.photograph import FITTED, SIDE, Fit, large_images_allowed, natural_side, read_photograph, size_of
from speedtrain.data.source import Source, data_error
from speedtrain.errors import UserError
from speedtrain.machine import available_cores

LEAST = 0.048
"""Core-seconds of training for each image from which more than 32 pixels a side pay: some twenty epochs of images of 64
pixels at width 8, on a core of an EPYC with AVX2 (docs/experiments.md)."""
NAMED = 20
"""Unreadable files that an error names."""
BATCH = 256
"""Images that go into the cache at once."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Attributes:
        side: pixels of each side; None for what `decide_side` finds.
        fit: what becomes of images that are not square: crop, pad or squash.
        skip_unreadable: whether files that cannot be read are left out, instead of an error.
        progress: is called with the number of images read and their total.
        core_seconds: of training, to decide the side by; None where they do not limit it.
        pixel_max: what integers wider than uint8 have for white; None for the largest of their depth.
        from_annotators: whether somebody said that labels in several columns are annotators'.
    """

    side: int | None = SIDE
    fit: Fit = "crop"
    skip_unreadable: bool = False
    progress: Progress | None = None
    pixel_max: int | None = None
    core_seconds: float | None = None
    from_annotators: bool = False

    def decide_side(self, sizes: Iterable[tuple[int, int]], count: int) -> tuple[int, list[str]]:
        """The side of the images, and what is to be said about it.

        Where none is asked for, it is `natural_side`, or 32 where the training would be too short for more.

        Args:
            sizes: (width, height) of the images, or of some of them; not looked at where a side is asked for.
            count: how many images there are.
        """
        if self.side is not None:
            return self.side, []
        side = natural_side(list(sizes))
        if side == SIDE or self.core_seconds is None or self.core_seconds >= LEAST * count:
            return side, []
        budget = f"{self.core_seconds:.0f} core-seconds are short for {count} images of {side} pixels a side"
        return SIDE, [f"{budget}: they are taken at {SIDE} pixels (--side {side} takes all)"]

    def like(self, source: Source) -> "Reading":
        """The same for images that go with those of `source`."""
        return replace(self, side=source.images.shape[1], pixel_max=source.pixel_max or self.pixel_max)


@dataclass(frozen=True)
class Photographs:
    """Image files as read.

    Attributes:
        images: uint8 [N, side, side, 3], of the files that could be read, in their order.
        readable: bool, one per file named: whether it could be read.
        resized: how many images had another size.
        oblong: how many images were not square.
        problems: file that cannot be read → why.
        notes: one-line messages for the user.
    """

    images: np.ndarray
    readable: np.ndarray
    resized: int
    oblong: int
    problems: Mapping[Path, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_photographs(paths: Sequence[Path], reading: Reading) -> Photographs:
    """Reads image files, each from the cache or else decoded, on all cores.

    Threads are enough: Pillow decodes and resizes outside of Python's lock.

    Raises:
        UserError: the images fit neither into memory nor on the disk.
    """
    problems: dict[Path, str] = {}
    with large_images_allowed(), ThreadPoolExecutor(available_cores()) as pool:
        try:
            sizes = list(pool.map(_size, paths))
            side, on_side = reading.decide_side([size for size in sizes if size] or [(SIDE, SIDE)], len(paths))
            images = empty_images(len(paths), side)
            cache = ImageCache(cache_folder(), side)
            keys = [image_key(path, side, reading.fit) for path in paths]
            missing = np.flatnonzero(~cache.read(keys, images)).tolist()

            def decode(place: int) -> str | None:
                try:
                    images[place], _ = read_photograph(paths[place], side, reading.fit)
                except Exception as error:
                    return str(error)
                # a file that was changed while it was read is not kept
                if keys[place] != image_key(paths[place], side, reading.fit):
                    keys[place] = None
                return None

            for first in range(0, len(missing), BATCH):
                batch = missing[first : first + BATCH]
                for done, (place, problem) in enumerate(zip(batch, pool.map(decode, batch), strict=True), first + 1):
                    if problem is not None:
                        problems[paths[place]] = problem
                    if reading.progress:
                        reading.progress(done, len(missing))
                good = [place for place in batch if paths[place] not in problems]
                cache.write((key, images[place]) for place in good if (key := keys[place]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    readable = np.array([path not in problems for path in paths], dtype=bool)
    found = [size for size, good in zip(sizes, readable, strict=True) if good]
    resized = sum(size != (side, side) for size in found)
    oblong = sum(size is not None and size[0] != size[1] for size in found)
    notes = (f"decoded images could not be kept for the next run ({cache.problem})",) if cache.problem else ()
    images = images if readable.all() else take(images, readable)
    return Photographs(images, readable, resized, oblong, problems, (*on_side, *notes))


def labelled_photographs(
    name: str,
    where: str,
    files: Mapping[Path, str],
    labels: np.ndarray,
    classes: tuple[str, ...],
    reading: Reading,
    notes: Sequence[str] = (),
) -> Source:
    """Image files of named classes.

    Args:
        name, where, classes: as in `Source`.
        files: N files, each → its name in `Source.files`.
        labels: int64 [N].
        reading: how they are read.
        notes: what is to be said beside what was done to the images. Default: nothing.

    Raises:
        UserError: a file cannot be read, or with `skip_unreadable`, none can.
    """
    paths = list(files)
    read = read_photographs(paths, reading)
    if read.problems and not reading.skip_unreadable:
        raise unreadable_images(read.problems, "mend or remove what is damaged, or leave it out by --skip-unreadable")
    if not len(read.images):
        raise unreadable_images(read.problems, "no image is left; mend them")
    count, side = len(read.images), read.images.shape[1]
    said = [note_on_fit(read.resized, read.oblong, count, side, reading.fit)] if read.resized else []
    if read.problems:
        first, why = next(iter(read.problems.items()))
        said.append(f"{len(read.problems)} files that cannot be read were left out, {first.name} for one ({why})")
    return Source(
        name=name,
        where=where,
        images=read.images,
        labels=labels[read.readable],
        classes=classes,
        notes=(*(f"{name}: {note}" for note in [*read.notes, *said]), *notes),
        by_name=True,
        native=side == SIDE and not read.resized and any(map(_in_colour, read.images)),
        files=tuple(named for path, named in files.items() if path not in read.problems),
        problems={files[path]: why for path, why in read.problems.items()},
    )


def note_on_fit(resized: int, oblong: int, count: int, side: int, fit: Fit) -> str:
    """What was done to images of another size, some of which were not square."""
    if not oblong:
        return f"{resized} of {count} images were resized to {side}×{side}"
    others = f", and {resized - oblong} square ones resized" if resized > oblong else ""
    return f"{oblong} of {count} images were {FITTED[fit]} {side}×{side}{others}"


def unreadable_images(problems: Mapping[Path, str] | Mapping[str, str], advice: str) -> UserError:
    """The error that names files that cannot be read as images, one or more."""
    named = list(problems.items())[:NAMED]
    if len(problems) == 1:
        path, why = named[0]
        return data_error(path, f"cannot be read as an image ({why}): {advice}")
    more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    files = ", ".join(f"{path} ({why})" for path, why in named)
    return UserError(" ".join(f"{len(problems)} files cannot be read as images: {files}{more}: {advice}".split()))


def _in_colour(image: np.ndarray) -> bool:
    """Whether an image uint8 [side, side, 3] has a pixel that is more red than green, or less."""
    return bool((image[..., 0] != image[..., 1]).any())


def _size(path: Path) -> tuple[int, int] | None:
    """Width and height, None where the header cannot be read."""
    try:
        return size_of(path)
    except Exception:
        return None
