"""Many image files → one array: all cores, the cache, progress, and the files that cannot be read."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from speedtrain.data.cache import ImageCache, cache_folder, image_key
from speedtrain.data.mapped import empty_images, take
from speedtrain.data.photograph import (
    FITTED,
    SIDE,
    WHITE,
    Facts,
    Fit,
    facts_of,
    large_images_allowed,
    natural_side,
    read_photograph,
    white_of,
)
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
        pixel_max: the integer that stands for white in grey images of more than 8 bits; None without such.
        notes: one-line messages for the user.
    """

    images: np.ndarray
    readable: np.ndarray
    resized: int
    oblong: int
    problems: Mapping[Path, str] = field(default_factory=dict)
    pixel_max: int | None = None
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
            facts = list(pool.map(_facts, paths))
            sizes = [known.size for known in facts if known]
            side, on_side = reading.decide_side(sizes or [(SIDE, SIDE)], len(paths))
            white, on_depth = white_in([known.highest if known else 0 for known in facts], reading)
            if upper := sum(known.upper_bits for known in facts if known):
                on_depth += [f"{upper} of {len(paths)} images have 16 bits a colour, of which the upper 8 were taken"]
            images = empty_images(len(paths), side)
            cache = ImageCache(cache_folder(), side)

            def key_of(place: int) -> bytes | None:
                known = facts[place]
                how = f"{reading.fit} {white}" if known and known.highest else reading.fit
                return image_key(paths[place], side, how)

            keys = [key_of(place) for place in range(len(paths))]
            missing = np.flatnonzero(~cache.read(keys, images)).tolist()

            def decode(place: int) -> str | None:
                try:
                    images[place], _ = read_photograph(paths[place], side, reading.fit, white or WHITE)
                except Exception as error:
                    return str(error)
                # a file that was changed while it was read is not kept
                if keys[place] != key_of(place):
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
    found = [known.size for known, good in zip(facts, readable, strict=True) if known and good]
    resized = sum(size != (side, side) for size in found)
    oblong = sum(size[0] != size[1] for size in found)
    notes = (f"decoded images could not be kept for the next run ({cache.problem})",) if cache.problem else ()
    images = images if readable.all() else take(images, readable)
    return Photographs(images, readable, resized, oblong, problems, white, (*on_side, *on_depth, *notes))


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
        pixel_max=read.pixel_max,
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


def _facts(path: Path) -> Facts | None:
    """None where the file cannot be read."""
    try:
        return facts_of(path)
    except Exception:
        return None


def white_in(highest: Sequence[int], reading: Reading) -> tuple[int | None, list[str]]:
    """What stands for white in grey images of more than 8 bits, and what is to be said of it.

    Args:
        highest: `highest_value` of each image.
        reading: how they are read.

    Returns:
        None where no image has more than 8 bits.
    """
    wide = sum(value > 0 for value in highest)
    if not wide:
        return None, []
    white = reading.pixel_max or white_of(max(highest)) or WHITE
    depth = f"{wide} of {len(highest)} images have more than 8 bits, from 0 to {white}"
    return white, [f"{depth}, converted to 8 (--set pixel_max=N changes it)"]
