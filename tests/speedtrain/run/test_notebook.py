"""A run in a notebook's cell, in a real kernel: a bar, an end by the stop button, and a result that shows itself."""

from pathlib import Path
from typing import Any

from jupyter_client.manager import start_new_kernel

CELL = """
import os
os.environ["MARK"] = "{mark}"
from speedtrain import train
result = train(60, "digits", per_class=20, settings=dict(width=4, batch_size=64, precision="fp32"), out="run")
result
"""
AFTER = """
from pathlib import Path
marked = [p for p in Path("/proc").glob("[0-9]*/environ") if p.parent.name != str(os.getpid())]
def left(path):
    try:
        return b"MARK={mark}" in path.read_bytes()
    except OSError:
        return False
print(result["status"], result["accuracy"], len(result.model().classes), sum(map(left, marked)))
"""


def test_a_cell_that_is_stopped_is_scored_and_leaves_nothing_behind(tmp_path: Path) -> None:
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path))

    def execute(code: str, stop_at: str = "nothing") -> list[dict[str, Any]]:
        """Runs a cell; presses the stop button when its output says so."""
        client.execute(code)
        messages: list[dict[str, Any]] = []
        while True:
            message = client.get_iopub_msg(timeout=120)
            messages.append(message)
            if message["msg_type"] == "stream" and stop_at in message["content"]["text"]:
                manager.interrupt_kernel()
                stop_at = "nothing"
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                return messages

    try:
        mark = tmp_path.name
        messages = execute(CELL.format(mark=mark), stop_at="epoch")
        kinds = [message["msg_type"] for message in messages]
        assert "error" not in kinds, messages
        lines = [message["content"]["text"] for message in messages if message["msg_type"] == "stream"]
        assert any("s left" in line and "images/s" in line for line in lines)
        (answer,) = (m["content"]["data"]["text/html"] for m in messages if m["msg_type"] == "execute_result")
        assert "accuracy" in answer
        assert "interrupted" in answer
        assert "<img" in answer
        assert "<table" in answer
        (printed,) = (m["content"]["text"] for m in execute(AFTER.format(mark=mark)) if m["msg_type"] == "stream")
        status, accuracy, classes, left = printed.split()
        assert status == "interrupted"
        assert 0 < float(accuracy) <= 1
        assert (classes, left) == ("10", "0")
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
