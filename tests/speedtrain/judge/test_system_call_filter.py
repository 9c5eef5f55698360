"""What the sandbox refuses of the kernel, and what honest programs need of it."""

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from speedtrain.cli import main
from speedtrain.judge import sandbox
from speedtrain.judge.system_call_filter import CALLS

from .conftest import board_of, command, needs_bwrap, submission

pytestmark = pytest.mark.skipif(os.uname().machine not in CALLS, reason="no filter for this machine")

FORBIDDEN = """
    import ctypes, socket
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    def call(*arguments):
        ctypes.set_errno(0)
        return "allowed" if libc.syscall(*arguments) >= 0 else os.strerror(ctypes.get_errno())
    x86 = os.uname().machine == "x86_64"
    numbers = dict(
        keyctl=(250, 219), add_key=(248, 217), request_key=(249, 218), unshare=(272, 97), setns=(308, 268),
        mount=(165, 40), ptrace=(101, 117), bpf=(321, 280), perf_event_open=(298, 241), userfaultfd=(323, 282),
        shmget=(29, 194), msgget=(68, 186), io_uring_setup=(425, 425), clone3=(435, 435), open_tree=(428, 428),
    )
    told = {name: call(number[0 if x86 else 1], 0, 0, 0, 0, 0) for name, number in numbers.items()}
    told["new user namespace"] = call(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)
    if x86:
        told["x32"] = call(0x40000000 | 39, 0, 0, 0, 0, 0)
    for family in (40, 17, 38):  # of virtual machines, of packets, of the kernel's cryptography
        try:
            socket.socket(family, socket.SOCK_STREAM)
            told[f"socket {family}"] = "allowed"
        except OSError as error:
            told[f"socket {family}"] = error.strerror
    for family in (socket.AF_UNIX, socket.AF_INET):
        socket.socket(family, socket.SOCK_STREAM).close()
    told["user"] = os.getuid()
    print("TOLD", __import__("json").dumps(told))
"""

HONEST = """
    import datetime, os, sys
    import torch
    import torch.distributed
    from torch.utils.data import DataLoader
    assert sum(batch.sum().item() for batch in DataLoader(torch.arange(64), 8, num_workers=2)) == 2016
    store = torch.distributed.TCPStore("127.0.0.1", 0, 1, True, datetime.timedelta(seconds=20))
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    value = torch.ones(3)
    torch.distributed.all_reduce(value)
    assert torch.multiprocessing.get_context("fork").Pool(1).map(abs, [-1]) == [1]
    open(sys.argv[sys.argv.index("--net_sav") + 1], "w").write("weights")
    print("HONEST", value.sum().item())
"""


def told_by(out: Path, name: str, step: str) -> dict:
    entry = board_of(out)["by_name"][name]
    log = {
        "training": out / entry["runs"][0]["log"],
        "testing": out / "private" / "test-logs" / f"{entry['id']}-run-1.txt",
    }[step]
    return json.loads(next(line for line in log.read_text().splitlines() if line.startswith("TOLD")).split(" ", 1)[1])


@needs_bwrap
@pytest.mark.usefixtures("steady_machine")
def test_calls_that_escape_or_leave_something_behind_are_refused(data: SimpleNamespace, tmp_path: Path) -> None:
    out = tmp_path / "board"
    zips = [submission(tmp_path / f"{name}.zip", FORBIDDEN, FORBIDDEN) for name in ("one", "other")]
    assert main(command(data, out, *zips, more=("--runs", "1"))) == 0
    told = [told_by(out, name, step) for name in ("one", "other") for step in ("training", "testing")]
    users = [answers.pop("user") for answers in told]
    for answers in told:
        assert set(answers.values()) <= {
            "Operation not permitted", "Function not implemented", "Address family not supported by protocol",
        }, answers  # fmt: skip
    if os.geteuid() == 0:  # nothing that the kernel keeps per user passes from one step to another
        assert len(set(users)) == 4
        assert 0 not in users
    for name in ("one", "other"):
        assert board_of(out)["by_name"][name]["accuracy"] > 0.9


@needs_bwrap
def test_pytorch_its_data_loaders_and_gloo_do_without(data: SimpleNamespace, tmp_path: Path) -> None:
    path = tmp_path / "honest.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("training.py", textwrap.dedent(HONEST))
        archive.writestr("test.py", "import sys; print(open(sys.argv[sys.argv.index('--net_sav') + 1]).read())")
        archive.writestr("manifest.json", json.dumps({"interface": 1, "name": "honest", "licence": "MIT"}))
    out, more = tmp_path / "board", ("--runs", "1", "--budget", "60", "--memory", "6G")
    words = command(data, out, path, more=more)
    words[words.index("--budget") + 1] = "60"
    words[words.index("--memory") + 1] = "6G"
    words[words.index("--drift") + 1] = "1e9"
    assert main(words) == 0
    (run,) = board_of(out)["by_name"]["honest"]["runs"]
    log = (out / run["log"]).read_text()
    assert "HONEST 3.0" in log, log


def test_the_launcher_is_a_program_of_the_standard_library_alone() -> None:
    assert "speedtrain" not in sandbox.LAUNCHER.partition('"""')[2].partition('"""')[2]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", sandbox.LAUNCHER, "nowhere.py"], capture_output=True)
    assert done.returncode == 1
    assert b"nowhere.py" in done.stderr
