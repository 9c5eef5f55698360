"""Submissions that attack: each ends as a clear verdict of its own, and nobody else is harmed."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from speedtrain.cli import main
from speedtrain.judge import sandbox_check, sandboxed_step, scratch
from speedtrain.judge.control_groups import NoControlGroups

from .conftest import board_of, command, needs_bwrap, submission

LIMITS = ("--runs", "1", "--budget", "5", "--test-budget", "4", "--disk", "32M")
MARK = "speedtrain-attack-314159"

IN_TRAINING = {
    "fork bomb": ("while True: os.fork()", "processes and threads"),
    "memory of one": ("hog = np.ones(1 << 30, np.uint8)", "of memory"),
    "memory of many": (
        """
        for _ in range(4):
            if os.fork() == 0:
                hog = np.ones(300 << 20, np.uint8)
                time.sleep(60)
        time.sleep(60)
        """,
        "used more than the limit of 600 MiB of memory",
    ),
    "memory under a name that is no text": (
        """
        import ctypes
        ctypes.CDLL(None).prctl(15, b"\\xff\\xfe", 0, 0, 0)
        if os.fork() == 0:
            hog = np.ones(400 << 20, np.uint8)
            time.sleep(60)
        hog = np.ones(300 << 20, np.uint8)
        time.sleep(60)
        """,
        "used more than the limit of 600 MiB of memory",
    ),
    "memory behind a first thread that has ended": (
        """
        import ctypes, threading
        def hoard():
            hogs = []
            for _ in range(3):
                hogs.append(np.ones(150 << 20, np.uint8))
                if os.fork() == 0:
                    hogs.append(np.ones(100 << 20, np.uint8))
                    time.sleep(60)
            time.sleep(60)
        ctypes.CDLL(None).prctl(15, b"\\x0bRssAnon:0", 0, 0, 0)
        threading.Thread(target=hoard).start()
        ctypes.CDLL(None).syscall(60, 0)  # ends this thread alone
        """,
        "used more than the limit of 600 MiB of memory",
    ),
    "disk": (
        """
        for number in range(10_000):
            open(f"{number}", "wb").write(bytes(8 << 20))
            time.sleep(0.02)
        """,
        "to disk",
    ),
    "one large file": ("open('large', 'wb').write(bytes(100 << 20))", "the limit of 32 MiB"),
    "small files": (
        """
        for number in range(10**9):
            open(f"/dev/shm/{number}", "wb")
        """,
        "to disk",
    ),
    "deleted files": (
        """
        files = []
        for number in range(12):
            files.append(open("hidden", "wb"))
            os.unlink("hidden")
            files[-1].write(bytes(16 << 20))
        time.sleep(60)
        """,
        "deleted files",
    ),
    "deep folders": (
        """
        for _ in range(3000):
            os.mkdir("d")
            os.chdir("d")
        time.sleep(60)
        """,
        "cannot be looked into",
    ),
    "huge log": ("while True: sys.stdout.write('spam ' * 10000)", "printed more than the limit"),
    "crash before saving": ("os.unlink(options.net_sav); raise ValueError('what a pity')", "ValueError: what a pity"),
    "poses as the sandbox": (
        """
        os.unlink(options.net_sav)
        print("prlimit: failed to set the AS resource limit: Operation not permitted", file=sys.stderr)
        os._exit(1)
        """,
        "failed to set the AS resource limit",
    ),
    "does not compile": ("(", "SyntaxError"),
    "saves nothing": ("os.unlink(options.net_sav); time.sleep(60)", "killed at the deadline"),
    "link as weights": ("os.unlink(options.net_sav); os.symlink('/etc/passwd', options.net_sav)", "symbolic link"),
    "pipe as weights": ("os.unlink(options.net_sav); os.mkfifo(options.net_sav)", "not a plain file"),
    "folder as weights": ("os.unlink(options.net_sav); os.mkdir(options.net_sav)", "not a plain file"),
    "exit code of no signal": (
        "os.unlink(options.net_sav); sys.exit(-1)",
        "ended with exit code 255; the last line of its log: “",
    ),
    "exit code of a signal": ("os.unlink(options.net_sav); sys.exit(137)", "exit code 137 (SIGKILL, if a signal"),
}
if (os.cpu_count() or 1) > 1:  # the one that is given is not all of them
    IN_TRAINING["cores of others"] = (
        "os.sched_setaffinity(0, range(os.cpu_count())); time.sleep(60)",
        "cores that it was not given",
    )
WATCHED = [name for name in IN_TRAINING if name.startswith("memory")]
WATCHED += [name for name in IN_TRAINING if name in ("cores of others", "deleted files", "disk", "small files")]
"""Attacks that `limit_watch` alone must stop where the kernel cannot."""
HARMLESS = {
    "blocks beyond the end of the log": """
        import ctypes
        assert ctypes.CDLL(None, use_errno=True).fallocate(1, 1, ctypes.c_long(0), ctypes.c_long(48 << 20)) == -1
        """,
    "asks whose run it is": """
        names = [os.readlink(f"/proc/self/fd/{number}") for number in (1, 2)]
        names += open("/proc/self/mountinfo").read().split()
        assert not any(word in name for name in names for word in ("honest", "asks", "run-", "logs/", "copies")), names
        """,
    "asks for its limits": """
        found = [line.strip() for group in ("memory/memory.limit_in_bytes", "memory.max")
                 if os.path.exists(file := f"/sys/fs/cgroup/{group}") for line in open(file)]
        assert all(600 << 20 <= int(limit) < 640 << 20 for limit in found), found
        """,
}
IN_TESTING = {
    "pickle": (
        """
        class Payload:
            def __reduce__(self):
                return os.system, ("touch PWNED",)
        np.save(options.predictions, np.array([Payload()] * len(images), dtype=object), allow_pickle=True)
        """,
        "holds object, not int64",
    ),
    "wrong count": ("np.save(options.predictions, predicted[:-1])", "one class index per image"),
    "huge shape": (
        """
        with open(options.predictions, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (10**12,)})
        """,
        "one class index per image",
    ),
    "shape of thousands of digits": (
        """
        header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (0x" + b"f" * 4000 + b",)}"
        with open(options.predictions, "wb") as file:
            file.write(b"\\x93NUMPY\\x01\\x00" + len(header).to_bytes(2, "little") + header)
        """,
        "has shape with a number too long",
    ),
    "not numbers": ("np.save(options.predictions, np.full(len(images), np.nan))", "holds float64, not int64"),
    "no such class": ("np.save(options.predictions, predicted - 1)", "not 0 to 3"),
    "text": ("open(options.predictions, 'w').write('trust me')", "not an .npy file"),
    "too long": ("open(options.predictions, 'ab').write(bytes(20000))", "bytes; at most"),
    "link as predictions": (
        "os.unlink(options.predictions); os.symlink('SECRET/test.npz', options.predictions)",
        "symbolic link",
    ),
    "hangs": ("os.unlink(options.predictions); time.sleep(60)", "test.py: killed at the deadline"),
}
SPY = """
    import socket
    names = data.files[:1]
    def attempt(what, do):
        try:
            print("LEAK", what, do())
        except Exception as error:
            print("kept from", what, type(error).__name__)
    for path in ("SECRET", "BOARD", "BOARD/private/journal.jsonl", "/etc/shadow", "/var", "/root/.bashrc"):
        attempt("reading " + path, lambda: os.listdir(path) if os.path.isdir(path) else open(path).read(10))
    for path in ("/", "/usr", "/etc", "/submission", "/inputs", "/dev", "SECRET", sys.prefix):
        attempt("writing " + path, lambda: open(path + "/planted", "w"))
    attempt("the network", lambda: socket.create_connection(("192.0.2.7", 80), 1))
    attempt("names", lambda: socket.getaddrinfo("example.org", 80))
    attempt("the other network", lambda: socket.create_connection(("2001:db8::7", 80), 1))
    attempt("becoming root", lambda: os.setuid(0))
    attempt("processes", lambda: [pid for pid in os.listdir("/proc") if pid.isdigit()][20])
    attempt("environment", lambda: os.environ["ORGANISERS_TOKEN"])
    attempt("events", lambda: os.environ["TIMING_EVENTS"])
    due = {"train.npz"} if "training" in sys.argv[0] else {"images.npz", "weights"}
    attempt("other inputs", lambda: sorted(set(os.listdir("/inputs")) - due)[0])
    attempt("labels", lambda: names[1])
    attempt("descriptors", lambda: [os.readlink(f"/proc/self/fd/{fd}") for fd in range(3, 100)])
    for fd in range(3, 100):
        attempt("descriptor", lambda: os.write(fd, b"not an event"))
    left = ("/tmp/left", "/dev/shm/left", "left")
    attempt("earlier runs", lambda: [path for path in left if os.path.exists(path)][0])
    for path in left:
        open(path, "w").write("for the next run")
    print("SPIED")
"""
LOOKS_ITSELF_UP = """
    import socket
    for name in (socket.gethostname(), "localhost", socket.getfqdn()):
        found = socket.getaddrinfo(name, 80)
        assert {address[0] for *_, address in found} <= {"127.0.0.1", "::1"}, found
    listener = socket.create_server((socket.gethostbyname(socket.gethostname()), 0))
    socket.create_connection(listener.getsockname(), 5)
"""
CHATTY = """
    import signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        print("alive", float(open("/proc/uptime").read().split()[0]))
        time.sleep(0.01)
"""
DAEMON = f"""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(3600)", "{MARK}"])
        os._exit(0)
    os.wait()
"""


def marked() -> list[int]:
    """Processes of the daemon that are still there."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and MARK.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def judged(data: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, steady_machine: None) -> SimpleNamespace:
    """One judging of all the attackers, with an honest submission before and one after them."""
    folder = tmp_path_factory.mktemp("judging")
    out, zips = folder / "board", []

    def add(name: str, training: str = "", test: str = "") -> None:
        texts = (text.replace("SECRET", str(data.folder)).replace("BOARD", str(out)) for text in (training, test))
        zips.append(submission(folder / f"{len(zips)}.zip", *texts, name=name))

    add("honest first")
    for name, (code, _) in IN_TRAINING.items():
        add(name, training=code)
    for name, (code, _) in IN_TESTING.items():
        add(name, test=code)
    add("daemon", training=DAEMON, test=DAEMON)
    add("spy", training=SPY, test=SPY)
    add("second spy", training=SPY, test=SPY)
    add("chatty", training=CHATTY)
    add("looks itself up", training=LOOKS_ITSELF_UP, test=LOOKS_ITSELF_UP)
    add("IPv6", training='socket = __import__("socket").socket(10, 1); socket.connect_ex(("2001:db8::7", 80))')
    for name, code in HARMLESS.items():
        add(name, training=code)
    add("honest last")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORGANISERS_TOKEN", "secret")
        assert main(command(data, out, *zips, more=LIMITS)) == 0
    return SimpleNamespace(out=out, board=board_of(out))


@needs_bwrap
@pytest.mark.parametrize("name", [*IN_TRAINING, *IN_TESTING])
def test_an_attack_ends_as_a_clear_verdict(name: str, judged: SimpleNamespace) -> None:
    (run,) = judged.board["by_name"][name]["runs"]
    words = {**IN_TRAINING, **IN_TESTING}[name][1]
    if name == "cores of others" and "cores" in run["by_kernel"]:  # it gets nothing by asking
        assert not run["failed"]
        return
    assert run["failed"]
    assert run["accuracy"] == 0
    if name == "deleted files" and "disk" in run["by_kernel"]:  # whichever is first, the kernel or the look at it
        words = "wrote more than the limit of 32 MiB to d"
    assert words in run["verdict"], run["verdict"]


@pytest.fixture(scope="module")
def watched(data: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory, steady_machine: None) -> SimpleNamespace:
    """A judging where the kernel limits single processes alone: no control groups, no file system for the scratch."""

    def refuse(*_: object) -> NoReturn:
        raise NoControlGroups("not in this test")

    folder = tmp_path_factory.mktemp("watched")
    zips = [submission(folder / f"{i}.zip", IN_TRAINING[name][0], name=name) for i, name in enumerate(WATCHED)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandboxed_step, "new_group", refuse)
        patch.setattr(scratch, "_mount", lambda folder, size: None)
        assert main(command(data, folder / "board", *zips, more=LIMITS)) == 0
    return SimpleNamespace(board=board_of(folder / "board"))


@needs_bwrap
@pytest.mark.parametrize("name", WATCHED)
def test_the_watch_alone_stops_it_too(name: str, watched: SimpleNamespace) -> None:
    (run,) = watched.board["by_name"][name]["runs"]
    assert run["by_kernel"] == []
    assert run["failed"]
    assert IN_TRAINING[name][1] in run["verdict"], run["verdict"]


@needs_bwrap
def test_the_kernel_holds_every_limit_that_it_can(judged: SimpleNamespace) -> None:
    held = list(sandbox_check.check_packages("bwrap").by_kernel)
    for entry in judged.board["entries"]:
        assert entry["runs"][0]["by_kernel"] == held
        if "memory" in held:
            assert entry["runs"][0]["peak_memory"] <= 640 << 20


@needs_bwrap
@pytest.mark.parametrize(
    "name", ["honest first", "honest last", "looks itself up", "daemon", "spy", "second spy", *HARMLESS]
)
def test_the_others_are_unharmed(name: str, judged: SimpleNamespace) -> None:
    (run,) = judged.board["by_name"][name]["runs"]
    assert not run["failed"], run["verdict"]
    assert run["accuracy"] > 0.9  # whatever order the test images were given in
    assert run["images_seen"] == 80


@needs_bwrap
@pytest.mark.parametrize("name", ["spy", "second spy"])
def test_a_spy_finds_nothing(name: str, judged: SimpleNamespace) -> None:
    entry = judged.board["by_name"][name]
    training = (judged.out / entry["runs"][0]["log"]).read_text()
    testing = (judged.out / "private" / "test-logs" / f"{entry['id']}-run-1.txt").read_text()
    for log in (training, testing):
        assert "SPIED" in log
        assert "LEAK" not in log
    assert entry["runs"][0]["network_attempts"] > 0
    for honest in ("honest first", "looks itself up"):
        assert judged.board["by_name"][honest]["runs"][0]["network_attempts"] == 0
    assert judged.board["by_name"]["IPv6"]["runs"][0]["network_attempts"] > 0


@needs_bwrap
def test_nothing_outlives_its_run_and_nothing_is_left_on_the_host(judged: SimpleNamespace) -> None:
    assert marked() == []
    assert not (judged.out / "private" / "work").exists()
    assert not list(judged.out.rglob("PWNED"))
    assert not Path("PWNED").exists()


@needs_bwrap
def test_limits_are_told_and_logs_are_cut(judged: SimpleNamespace) -> None:
    log = judged.out / judged.board["by_name"]["huge log"]["runs"][0]["log"]
    assert 1 << 20 < log.stat().st_size <= 8 << 20
    memory = judged.board["by_name"]["memory of many"]["runs"][0]["peak_memory"]
    assert 300 << 20 < memory < 3 << 30


@needs_bwrap
def test_a_log_is_whole_up_to_the_kill(judged: SimpleNamespace) -> None:
    entry = judged.board["by_name"]["chatty"]
    assert not entry["runs"][0]["failed"]  # killed, but it had saved
    lines = (judged.out / entry["runs"][0]["log"]).read_text().split("\n")
    alive = [float(line.split()[1]) for line in lines if line.startswith("alive") and len(line.split()) > 1]
    assert alive[-1] - alive[0] > 2.5  # of a budget of 5, with the start of Python in it
    journal = [json.loads(line) for line in (judged.out / "private/journal.jsonl").read_text().splitlines()]
    (run,) = (line for line in journal[1:] if line["submission"] == entry["id"])
    assert 5 <= run["training"]["wall_seconds"] < 11
    assert run["training"]["reason"] == "deadline"
