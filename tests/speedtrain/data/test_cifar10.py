"""CIFAR-10 on disk and downloaded, from real servers."""

import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_images import CLOSED_PORT, GOOD, LABELS, error_of, some_images

from speedtrain.data import Data, cifar10, download, load_data


def test_auto_falls_back_to_digits_and_says_so_once(offline: Path) -> None:
    data = load_data("auto")
    assert data.train.name == "digits"
    said = [note for note in data.notes if "instead of CIFAR-10" in note]
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert f"unpack cifar-10-python.tar.gz in {offline}," in said[0]
    assert list(offline.iterdir()) == []


def test_cifar10_does_not_fall_back(offline: Path) -> None:
    for message in (
        error_of(load_data, "cifar10"),
        error_of(load_data, "digits", "cifar10"),
        error_of(load_data, "auto", (GOOD, LABELS)),
    ):
        assert "no cifar-10-batches-py folder in" in message
        assert "--data digits" in message


def test_the_front_process_stays_light_and_quick(tmp_path: Path) -> None:
    """Falling back imports neither torch nor torchvision; a fresh process, as a person's would be."""
    code = (
        "import sys, speedtrain.data as data, speedtrain.data.cifar10\n"
        f"data.cifar10.CIFAR10_URL = {CLOSED_PORT!r}\n"
        "assert 'sklearn' not in sys.modules\n"
        "print(data.load_data('auto').train.name, 'torch' in sys.modules)"
    )
    environment = {**os.environ, "SPEEDTRAIN_DATA": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.stdout == "digits False\n", ran.stderr


@contextmanager
def server(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a web server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_probe_of_a_server_that_answers(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    with server(partial(Quiet, directory=str(tmp_path))) as address:
        assert download.answers(f"{address}/there")
        assert not download.answers(f"{address}/not-there")
    assert not download.answers(f"{address}/there")


def test_probe_of_a_server_that_dawdles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then resets every timeout of the socket; only the thread's own limit ends it."""
    monkeypatch.setattr(download, "PROBE_SECONDS", 0.5)
    done = threading.Event()

    def drip(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            give_up = time.monotonic() + 5
            while not done.wait(0.05) and time.monotonic() < give_up:
                connection.send(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=drip, args=(listening,))
        thread.start()
        start = time.monotonic()
        assert not download.answers(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        taken = time.monotonic() - start
        done.set()
        thread.join()
    assert 0.5 <= taken < 4


def cifar10_archive(folder: Path) -> Path:
    """An archive in CIFAR-10's format: a pickle a batch, 20 images each, one of them for the test."""
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    contents = {
        name: {"data": some_images(20, 3072, seed=seed), "labels": list(range(10)) * 2}
        for seed, name in enumerate(names)
    }
    contents["batches.meta"] = {"label_names": [f"class {number}" for number in range(10)]}
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            raw = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return folder / "cifar-10-python.tar.gz"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small archive that torchvision takes for CIFAR-10's: only its list of checksums is changed."""
    from torchvision.datasets import CIFAR10

    (tmp_path / "served").mkdir()
    path = cifar10_archive(tmp_path / "served")
    with tarfile.open(path) as opened:
        sums = {Path(member.name).name: md5(opened.extractfile(member).read()) for member in opened}
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(path.read_bytes()))
    monkeypatch.setattr(CIFAR10, "train_list", [[name, sums[name]] for name, _ in CIFAR10.train_list])
    monkeypatch.setattr(CIFAR10, "test_list", [[name, sums[name]] for name, _ in CIFAR10.test_list])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    return path


def check_cifar10(data: Data) -> None:
    assert data.train.name == data.test.name == "cifar10"
    assert not data.test_is_holdout
    assert data.train.classes == tuple(f"class {number}" for number in range(10))
    channels_first = np.concatenate([some_images(20, 3072, seed=seed) for seed in range(5)])
    expected = channels_first.reshape(100, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(data.train.images, expected)
    assert data.train.labels.tolist() == list(range(10)) * 10
    assert data.test.images.shape == (20, 32, 32, 3)
    assert data.train.images.flags.c_contiguous


@pytest.mark.parametrize("where", ["data_root", "environment", "here"])
def test_cifar10_on_disk(
    offline: Path, archive: Path, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = {"data_root": tmp_path / "mine", "environment": offline, "here": offline / "data"}[where]
    if where == "here":
        monkeypatch.delenv("SPEEDTRAIN_DATA")
    with tarfile.open(archive) as opened:
        opened.extractall(root, filter="data")
    data_root = tmp_path / "mine" if where == "data_root" else None
    data = load_data("auto", data_root=data_root, per_class="all")
    check_cifar10(data)
    assert data.notes == ()

    data = load_data("cifar10", data_root=data_root)
    assert data.notes[0].startswith("training on 500 images per class, as in the competition")
    data = load_data("cifar10", data_root=data_root, per_class=3)
    assert np.bincount(data.train.labels).tolist() == [3] * 10
    assert len(data.test.labels) == 20


def test_cifar10_is_downloaded(offline: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    with server(partial(Quiet, directory=str(archive.parent))) as address:
        for owner, attribute in ((cifar10, "CIFAR10_URL"), (CIFAR10, "url")):
            monkeypatch.setattr(owner, attribute, f"{address}/{archive.name}")
        data = load_data("auto", data_root=offline / "new", per_class="all")
    check_cifar10(data)
    assert data.notes == (f"CIFAR-10 was downloaded to {offline / 'new'}",)
    assert socket.getdefaulttimeout() is None
    check_cifar10(load_data("auto", data_root=offline / "new", per_class="all"))  # the server is gone


def test_half_a_download_is_not_taken(offline: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    archive.write_bytes(archive.read_bytes()[:-1000])
    with server(partial(Quiet, directory=str(archive.parent))) as address:
        for owner, attribute in ((cifar10, "CIFAR10_URL"), (CIFAR10, "url")):
            monkeypatch.setattr(owner, attribute, f"{address}/{archive.name}")
        assert "the download failed" in error_of(load_data, "cifar10")
        data = load_data("auto")
    assert data.train.name == "digits"
    assert any("the download failed" in note for note in data.notes)


def test_damaged_cifar10_is_said(offline: Path) -> None:
    folder = offline / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(b"half")
    message = error_of(load_data, "cifar10")
    assert f"{folder} is damaged or incomplete" in message
    data = load_data("auto")
    assert data.train.name == "digits"
    assert any(f"{folder} is damaged or incomplete" in note for note in data.notes)


def test_we_probe_what_torchvision_downloads() -> None:
    from torchvision.datasets import CIFAR10

    assert CIFAR10.url == cifar10.CIFAR10_URL
    assert CIFAR10.base_folder == cifar10.CIFAR10_FOLDER
