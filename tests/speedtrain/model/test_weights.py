"""A weights file is whole at every instant, whatever happens to the process that writes it."""

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_model import save_model

from speedtrain import load
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.model.weights import load_weights, save_weights


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {"a": torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last), "n": torch.tensor(3)}
    save_weights(tmp_path / "w", state, {"step": 7, "progress": 0.1})
    loaded, facts = load_weights(tmp_path / "w")
    assert facts == {"step": 7, "progress": 0.1}
    assert all(torch.equal(state[name], loaded[name]) for name in state)
    assert [file.name for file in tmp_path.iterdir()] == ["w"]


def test_a_kill_at_any_instant_leaves_a_whole_file(tmp_path: Path) -> None:
    code = f"""
        import os, random, signal, time
        from pathlib import Path
        import torch
        from speedtrain.model.weights import load_weights, save_weights
        torch.set_num_threads(1)  # threads would not survive a fork
        path, chance = Path({str(tmp_path / "w")!r}), random.Random(0)
        for _ in range(6):
            told, tell = os.pipe()
            writer = os.fork()
            step = 0
            while writer == 0:
                step += 1
                save_weights(path, {{"a": torch.full((500_000,), float(step))}}, {{"step": step}})
                os.write(tell, b"saved")
            os.read(told, 1)
            time.sleep(chance.uniform(0.0, 0.1))
            os.kill(writer, signal.SIGKILL)
            os.waitpid(writer, 0)
            state, facts = load_weights(path)
            assert (state["a"] == facts["step"]).all()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=200)


def test_a_full_disk_keeps_the_last_whole_file(tmp_path: Path) -> None:
    """The size limit of a process stands in for the end of the disk: the write fails half-way either way."""
    path = tmp_path / "w"
    write_atomic(path, b"old")
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            write_atomic(path, b"x" * 5000)
        except OSError:
            os._exit(42)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 42
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["w"]


def test_a_pickle_is_not_weights_and_is_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "ran"),))

    (tmp_path / "w").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="not a readable weights file"):
        load_weights(tmp_path / "w")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    path = save_model(tmp_path / "w")
    state, facts = load_weights(path)
    name = next(name for name, tensor in state.items() if tensor.ndim == 4)
    state[name].view(-1)[3] = torch.nan
    save_weights(path, state, facts)
    with pytest.raises(UserError, match="not all of its weights are finite numbers"):
        load(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    path = save_model(tmp_path / "w")
    path.chmod(0)
    with pytest.raises(UserError, match="no permission to read it"):
        load_weights(path)


def test_another_programs_header_is_no_hindrance(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "w", {"author": "me"})
    assert load_weights(tmp_path / "w")[1] == {"author": "me"}


def test_a_missing_or_cut_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable weights file"):
        load_weights(tmp_path / "nothing")
    save_weights(tmp_path / "w", {"a": torch.zeros(1000)}, {})
    (tmp_path / "w").write_bytes((tmp_path / "w").read_bytes()[:-100])
    with pytest.raises(UserError, match="not a readable weights file"):
        load_weights(tmp_path / "w")
