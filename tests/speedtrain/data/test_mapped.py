"""Images too large for memory: the same to the bit, not held there, nothing left behind, and refused in time."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from labelled_images import error_of, save_folder, some_images
from PIL import Image
from small_disk import LIMITS_FILES, small_disk

from speedtrain.data import Data, load_data, mapped
from speedtrain.data.mapped import empty_images, join, take

SIDE = 50
ALL = 20 * SIDE**2 * 3
"""Bytes of the images of `folder` at SIDE."""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where mapped images go."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_folder(tmp_path / "set", {"a": some_images(10, 20, 20, 3), "b": some_images(10, 20, 20, 3, seed=1)})


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the bytes of memory that are free. The folders of the tests count as disks, wherever they are."""
    monkeypatch.setattr(mapped, "is_in_memory", lambda path: False)
    return lambda number: monkeypatch.setattr(mapped, "free_memory", lambda: number)


def hashes(data: Data) -> tuple[str, str]:
    return data.train.sha256(), data.test.sha256()


def test_mapped_where_it_is_more_than_half_of_what_is_free(scratch: Path, free: Callable[[int], None]) -> None:
    free(2 * 3 * 3 * 8**2)
    assert not isinstance(empty_images(3, 8), np.memmap)
    assert isinstance(empty_images(4, 8), np.memmap)
    assert not any(scratch.iterdir())


def spoil(root: Path) -> None:
    (root / "a" / "0003.png").write_bytes(b"no image")


def divide(root: Path) -> None:
    for split in ("train", "val", "test"):
        save_folder(root / split, {"a": some_images(4, 20, 20, 3), "b": some_images(4, 20, 20, 3, seed=1)})
    for name in ("a", "b"):
        shutil.rmtree(root / name)


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (None, {}),
        (None, {"per_class": 3}),
        (spoil, {"skip_unreadable": True}),
        (divide, {}),
        (divide, {"with_validation": True}),
    ],
)
def test_mapped_images_are_the_same_to_the_bit(
    folder: Path, scratch: Path, free: Callable[[int], None], change: Callable[[Path], None] | None, options: Any
) -> None:
    if change:
        change(folder)
    expected = load_data(folder, side=SIDE, **options)
    assert not isinstance(expected.train.images, np.memmap)
    free(0)
    data = load_data(folder, side=SIDE, **options)
    for images, same in ((data.train, expected.train), (data.test, expected.test)):
        assert isinstance(images.images, np.memmap)
        np.testing.assert_array_equal(images.images, same.images)
        assert images.files == same.files
    assert hashes(data) == hashes(expected)
    assert data.notes == expected.notes
    assert not any(scratch.iterdir())  # a kill now would leave nothing


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as they are": lambda images: images,
    "grey": lambda images: images[..., 0],
    "of another size": lambda images: images[:, :40],
    "uint16": lambda images: images.astype(np.uint16) * 257,
    "floats": lambda images: (images / 255).astype(np.float32),
    "big-endian": lambda images: images.astype(">u2"),
    "in Fortran's order": np.asfortranarray,
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_an_npz_too_large_for_memory_gives_the_same_to_the_bit(
    change: str, tmp_path: Path, scratch: Path, free: Callable[[int], None]
) -> None:
    """Its arrays are read by numpy where memory has room, and block by block into a file where it has not."""
    images = CHANGES[change](some_images(20, SIDE, SIDE, 3))
    save = np.savez_compressed if change == "floats" else np.savez
    save(
        tmp_path / "set.npz", x_train=images[:14], y_train=np.arange(14) % 2, x_test=images[14:], y_test=np.ones(6, int)
    )
    expected = load_data(tmp_path / "set.npz", side=SIDE)
    assert not isinstance(expected.train.images, np.memmap)
    free(0)
    data = load_data(tmp_path / "set.npz", side=SIDE)
    assert isinstance(data.train.images, np.memmap)
    assert isinstance(data.test.images, np.memmap)
    assert hashes(data) == hashes(expected)
    assert data.notes == expected.notes
    assert not any(scratch.iterdir())


def test_an_npz_too_large_for_memory_that_is_damaged_or_finds_no_disk_says_so(
    tmp_path: Path, scratch: Path, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=some_images(20, SIDE, SIDE, 3), labels=np.arange(20) % 2)
    free(0)
    whole = path.read_bytes()
    path.write_bytes(whole[:60_000] + bytes([whole[60_000] ^ 1]) + whole[60_001:])
    assert error_of(load_data, path, side=SIDE).startswith(f"{path}: damaged, or not plain arrays (Bad CRC-32")
    path.write_bytes(whole)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=mapped.MIB // 10, total=mapped.MIB))
    message = error_of(load_data, path, side=SIDE)
    assert message.startswith(
        f"{path}: an array in it is too large for memory, and for {scratch}: it needs 0 MiB there"
    )
    assert "name a folder with more room by TMPDIR" in message
    assert not any(scratch.iterdir())


def test_a_data_set_in_python_is_mapped_as_well(scratch: Path, free: Callable[[int], None]) -> None:
    items = [(Image.fromarray(image), number % 2) for number, image in enumerate(some_images(10))]
    expected = load_data(items)
    free(0)
    data = load_data(items)
    assert isinstance(data.train.images, np.memmap)
    assert hashes(data) == hashes(expected)


def test_a_change_of_one_pixel_shows_in_the_hash(folder: Path, scratch: Path, free: Callable[[int], None]) -> None:
    free(0)
    before = load_data(folder, side=20)
    assert before.train.files
    image = np.array(Image.open(folder / before.train.files[-1]))
    image[19, 19, 2] ^= 1
    Image.fromarray(image).save(folder / before.train.files[-1])
    after = load_data(folder, side=20)
    assert hashes(after)[0] != hashes(before)[0]
    assert hashes(after)[1] == hashes(before)[1]
    after.train.images[-1, 19, 19, 2] ^= 1
    assert hashes(after) == hashes(before)


def test_copies_are_made_block_by_block(scratch: Path, free: Callable[[int], None], monkeypatch: Any) -> None:
    free(0)
    monkeypatch.setattr(mapped, "BLOCK", 3 * 8 * 8 * 3 + 1)
    images = some_images(10, 8, 8, 3)
    large = join(images[:4], images[4:])
    np.testing.assert_array_equal(large, images)
    for chosen in (np.arange(10) % 3 > 0, np.array([7, 2, 2, 9, 0]), np.ones(10, bool)):
        taken = take(large, chosen)
        assert isinstance(taken, np.memmap)
        np.testing.assert_array_equal(taken, images[chosen])
    assert take(large, np.zeros(10, bool)).shape == (0, 8, 8, 3)


PROGRAM = """
import os, resource, sys, threading
from pathlib import Path
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # one thread decodes
threading.stack_size(1 << 18)  # eight megabytes otherwise, which count
from speedtrain.data import cache, load_data, mapped
folder, side, free, room = sys.argv[1], *map(int, sys.argv[2:])
cache.SETTLED = 0.0
load_data(folder, side=8)  # imports the rest
mapped.free_memory = lambda: free
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
most = int(status["VmData"].split()[0]) * 1024 + room
resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
for _ in range(2):  # decoded, and from the cache
    data = load_data(folder, side=side)
    print(data.train.sha256(), data.test.sha256())
    del data
"""


class Loaded(NamedTuple):
    """What the program above did."""

    printed: list[str]
    error: str


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts memory that is no file on Linux alone")
@pytest.mark.parametrize("source", ["folder", "npz"])
def test_mapped_images_take_less_than_half_of_their_size_in_memory(folder: Path, scratch: Path, source: str) -> None:
    """Decoding, the cache, the holdout, the hash: the kernel refuses memory of the process beyond half of the set.

    The limit does not count pages of mapped files, which the kernel writes to the disk where memory is short. Without
    mapping, the same limit is too small.
    """
    side = 800
    if source == "npz":
        folder = folder.parent / "set.npz"
        np.savez_compressed(folder, images=some_images(20, side, side + 1, 3), labels=np.arange(20) % 2)
    room = 20 * side**2 * 3 // 2

    def load(free: int) -> Loaded:
        command = [sys.executable, "-c", PROGRAM, str(folder), str(side), str(free), str(room)]
        environment = {"SPEEDTRAIN_CACHE": str(scratch.parent / "cache"), "TMPDIR": str(scratch), "PATH": ""}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return Loaded(done.stdout.splitlines(), done.stderr)

    expected = " ".join(hashes(load_data(folder, side=side)))
    assert load(free=0) == ([expected, expected], "")
    assert "MemoryError" in load(free=1 << 40).error


def test_what_fits_neither_into_memory_nor_on_the_disk_names_a_side_that_does(
    folder: Path, scratch: Path, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(1000)
    room = mapped.HELD * ALL
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=room, total=2 * room))
    message = error_of(load_data, folder, side=SIDE + 1)
    assert message.startswith(f"{scratch}: no room for 20 images of 51×51 pixels: they need 0 MiB there, ")
    assert "give --side 50, fewer images, or a folder with more room by TMPDIR" in message
    assert load_data(folder, side=SIDE).side == SIDE
    free(2 * 20 * 60**2 * 3)  # memory has room for more than the disk
    assert "give --side 60, fewer images" in error_of(load_data, folder, side=61)
    assert not isinstance(load_data(folder, side=60).train.images, np.memmap)


def test_a_disk_in_memory_has_no_more_room_than_memory(
    folder: Path, scratch: Path, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(ALL)  # images of 50 pixels a side once, and a mapped set needs them twice
    monkeypatch.setattr(mapped, "is_in_memory", lambda path: path == scratch)
    assert "no room for 20 images of 50×50 pixels" in error_of(load_data, folder, side=SIDE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0, total=0))
    assert load_data(folder, side=SIDE).side == SIDE  # a file system that does not tell


@pytest.mark.skipif(not LIMITS_FILES, reason="needs to mount a small file system")
def test_a_small_disk_is_refused_before_anything_is_decoded(
    folder: Path, tmp_path: Path, free: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    free(0)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "disk"))
    with small_disk(tmp_path / "disk", "2m"):
        message = error_of(load_data, folder, side=200, progress=lambda *_: pytest.fail("decoded"))
        assert "they need 5 MiB there, and 2 are free: give --side 132, fewer images" in message
        assert load_data(folder, side=130).side == 130
        # a disk that has room by its numbers and gives none, as with a quota
        monkeypatch.setattr(mapped, "check_disk", lambda *_: None)
        message = error_of(load_data, folder, side=300)
        assert message.endswith("cannot be written (No space left on device): name another folder by TMPDIR")
