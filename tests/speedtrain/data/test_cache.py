"""The cache of decoded images: never old pixels, never fatal, bounded; and files that cannot be read."""

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from labelled_images import error_of, save_folder, some_images
from PIL import Image
from small_disk import LIMITS_FILES, read_only, small_disk

from speedtrain.data import cache, image_files, load_data, load_images


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files that count as settled, and a cache beside it."""
    monkeypatch.setenv("SPEEDTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "SETTLED", 0.0)
    return save_folder(tmp_path / "set", {"a": some_images(5), "b": some_images(5, seed=1)})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were decoded, not found in the cache."""
    paths: list[Path] = []
    read = image_files.read_photograph

    def spy(path: Path, *args: object) -> object:
        paths.append(path)
        return read(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(image_files, "read_photograph", spy)
    return paths


def test_a_file_is_decoded_once_for_a_side_and_fit(folder: Path, decoded: list[Path]) -> None:
    first = load_images(folder)[0]
    assert len(decoded) == 10
    np.testing.assert_array_equal(load_images(folder)[0], first)
    assert len(decoded) == 10
    for options in ({"side": 48}, {"side": 48, "fit": "pad"}):
        load_images(folder, **options)  # type: ignore[arg-type]
    assert len(decoded) == 30


def test_a_file_in_anothers_place_is_noticed(folder: Path, decoded: list[Path]) -> None:
    """Even one of the same size and date, as `cp -p` and `rsync -t` leave it."""
    path = folder / "a" / "0000.bmp"
    new = some_images(2, seed=9)
    Image.fromarray(new[0]).save(path)
    before = path.stat()
    np.testing.assert_array_equal(load_images(path)[0], new[:1])
    time.sleep(0.05)
    Image.fromarray(new[1]).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    np.testing.assert_array_equal(load_images(path)[0], new[1:])
    Image.fromarray(new[0]).save(folder / "other.bmp")
    os.utime(folder / "other.bmp", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(folder / "other.bmp", path)
    np.testing.assert_array_equal(load_images(path)[0], new[:1])
    assert decoded == [path] * 3


def test_a_fresh_file_is_not_kept(folder: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SETTLED", 1000.0)
    for _ in range(2):
        load_images(folder)
    assert len(decoded) == 20


def test_off(folder: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEEDTRAIN_CACHE", "off")
    for _ in range(2):
        load_images(folder)
    assert len(decoded) == 20
    assert not (folder.parent / "cache").exists()


def test_the_oldest_used_go_first(folder: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "LIMIT", 8 * 32 * 32 * 3)
    load_images(folder / "a")
    load_images(folder / "b" / "0000.png")
    load_images(folder / "a")
    load_images(folder / "b")
    assert len(decoded) == 10
    load_images(folder / "b")
    assert len(decoded) == 10
    load_images(folder / "a")
    assert len(decoded) == 12
    with sqlite3.connect(folder.parent / "cache" / "images.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM images").fetchone() == (8,)


@pytest.mark.parametrize("damage", ["file in its place", "not a database", "cut", "overwritten"])
def test_a_cache_that_cannot_be_used_is_a_note(folder: Path, damage: str) -> None:
    expected = load_data(folder)
    database = folder.parent / "cache" / "images.sqlite"
    content = database.read_bytes()
    if damage == "file in its place":
        for file in database.parent.iterdir():
            file.unlink()
        database.parent.rmdir()
        database.parent.touch()
    elif damage == "not a database":
        database.write_bytes(b"hello" * 1000)
    elif damage == "cut":
        database.write_bytes(content[: len(content) // 2])
    else:
        database.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    data = load_data(folder)
    assert data.train.sha256() == expected.train.sha256()
    assert any("decoded images could not be kept" in note for note in data.notes)
    if damage != "file in its place":
        load_data(folder)
        assert load_data(folder).notes == expected.notes


@pytest.mark.skipif(not os.geteuid() and not LIMITS_FILES, reason="root may write anywhere but to a mount")
def test_a_read_only_cache_costs_only_time(folder: Path, decoded: list[Path]) -> None:
    expected = load_data(folder)
    with read_only(folder.parent / "cache"):
        data = load_data(folder)
    assert data.train.sha256() == expected.train.sha256()
    assert data.test.sha256() == expected.test.sha256()
    added = set(data.notes) - set(expected.notes)
    assert len(added) == 1
    assert "decoded images could not be kept" in added.pop()
    assert load_data(folder).notes == expected.notes
    assert len(decoded) == 20


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Inside, a file grows to 50,000 bytes and no further."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "disk",
    [
        "small files",
        *(pytest.param(size, marks=pytest.mark.skipif(not LIMITS_FILES, reason="mounts")) for size in ("4k", "100k")),
    ],
)
def test_a_disk_that_fills_up_while_images_are_kept_costs_only_time(
    folder: Path, decoded: list[Path], monkeypatch: pytest.MonkeyPatch, disk: str
) -> None:
    """After the first images or before, it depends on the disk. With room again, the cache is whole."""
    monkeypatch.setattr(image_files, "BATCH", 2)
    monkeypatch.setenv("SPEEDTRAIN_CACHE", "off")
    expected = load_data(folder, side=64)
    place = folder.parent / "small"
    monkeypatch.setenv("SPEEDTRAIN_CACHE", str(place))
    with small_files() if disk == "small files" else small_disk(place, disk):
        data = load_data(folder, side=64)
    assert data.train.sha256() == expected.train.sha256()
    assert data.test.sha256() == expected.test.sha256()
    added = set(data.notes) - set(expected.notes)
    assert len(added) == 1
    assert "decoded images could not be kept" in added.pop()
    assert len(decoded) == 20
    for _ in range(2):
        assert load_data(folder, side=64).notes == expected.notes
    assert len(decoded) <= 30


def test_killed_at_any_instant_and_two_at_once(folder: Path, decoded: list[Path]) -> None:
    program = (
        "import sys; from pathlib import Path; import numpy as np; from speedtrain.data.cache import ImageCache\n"
        "cache = ImageCache(Path(sys.argv[1]), 32); image = np.zeros((32, 32, 3), np.uint8); print(flush=True)\n"
        "for n in range(10**9): cache.write([(b'%d %d' % (n, k), image) for k in range(50)])"
    )
    command = [sys.executable, "-c", program, str(folder.parent / "cache")]
    for delay in (0.0, 0.03, 0.1):
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
        for process in processes:
            assert process.stdout
            process.stdout.readline()
        time.sleep(delay)
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.communicate()
    first = load_data(folder)
    assert not any("could not be kept" in note for note in first.notes)
    assert load_data(folder).train.sha256() == first.train.sha256()
    assert len(decoded) == 10


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    load_data(folder, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 10) for done in range(1, 11)]


def test_all_unreadable_files_are_named_at_once(folder: Path) -> None:
    (folder / "a" / "0001.png").write_bytes(b"no image")
    (folder / "b" / "0003.png").write_bytes((folder / "b" / "0003.png").read_bytes()[:300])
    message = error_of(load_data, folder)
    assert message.startswith("2 files cannot be read as images: ")
    assert str(folder / "a" / "0001.png") in message
    assert str(folder / "b" / "0003.png") in message
    assert "--skip-unreadable" in message
    assert "--skip-unreadable" not in error_of(load_images, folder)

    data = load_data(folder, skip_unreadable=True)
    assert data.skipped == ("a/0001.png", "b/0003.png")
    assert len(data.train.images) + len(data.test.images) == 8
    assert any("2 files that cannot be read were left out, 0001.png for one" in note for note in data.notes)
    files = [*(data.train.files or ()), *(data.test.files or ())]
    assert not set(files) & set(data.skipped)
    for file, image in zip(files, [*data.train.images, *data.test.images], strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(folder / file)))

    for number in range(30):
        (folder / "a" / f"{number}.jpg").touch()
    message = error_of(load_data, folder)
    assert sum(f"{folder / 'a' / f'{number}.jpg'} (" in message for number in range(30)) == 19
    assert "and 12 more" in message
