"""The formats: how a program is written as a file, and how the file is run."""

import contextlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from speedtrain.errors import UserError
from speedtrain.export.program import INPUT, OUTPUT
from speedtrain.machine import available_cores

Run = Callable[[np.ndarray], np.ndarray]
"""Images uint8 [N, side, side, 3] → probabilities float32 [N, K]."""

FACTS = "speedtrain.json"
"""Name of the metadata inside a program of torch."""


def write_onnx(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Writes ONNX by torch's own exporter, with the facts in the metadata, each as JSON."""
    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False, external_data=False
        )
    assert exported is not None
    exported.model.metadata_props.update({name: json.dumps(fact, ensure_ascii=False) for name, fact in facts.items()})
    exported.save(str(path), external_data=False)


def run_onnx(path: Path) -> Run:
    """Loads ONNX into ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def write_torch(program: torch.export.ExportedProgram, path: Path, facts: Mapping[str, Any]) -> None:
    """Writes a program of `torch.export`, with the facts as a JSON file in it."""
    content = json.dumps(facts, ensure_ascii=False)
    buffer = io.BytesIO()  # torch insists on a suffix of its own for paths
    with _quiet():
        torch.export.save(program, buffer, extra_files={FACTS: content})
    path.write_bytes(buffer.getvalue())


def run_torch(path: Path) -> Run:
    """Loads a program of `torch.export`."""
    with _quiet():
        network = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            answer: np.ndarray = network(torch.tensor(images)).numpy()
        return answer

    return run


def need_onnx() -> None:
    """Checks that the packages for ONNX are installed.

    Raises:
        UserError: one is not.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UserError(f'export: {package} is not installed; pip install "speedtrain[export]"')


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters print about themselves."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
