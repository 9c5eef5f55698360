"""A model as one web page: the ONNX file, ONNX Runtime Web and the script that prepares an image, all inside.

The page fetches nothing, and works from a disk. Everything large in it is compressed by gzip and written in base64; the
browser unpacks it.
"""

import base64
import gzip
import json
from dataclasses import dataclass
from pathlib import Path

from speedtrain.errors import UserError
from speedtrain.model.trained import TrainedModel
from speedtrain.view.html import Html, document, script_source, tag

PACKAGE = "onnxruntime-web"
"""npm package that holds the runtime."""
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
"""Files of its folder `dist`: the runtime for processors without a graphics card, and what it runs in."""


@dataclass(frozen=True)
class Runtime:
    """ONNX Runtime Web.

    Attributes:
        script: a JavaScript module.
        binary: WebAssembly.
        version: of the package.
    """

    script: bytes
    binary: bytes
    version: str


def find_runtime(folder: str | Path | None = None) -> Runtime:
    """Reads the runtime from an installed npm package.

    Args:
        folder: of the package. Default: `node_modules/onnxruntime-web` in the current folder or one above it.

    Raises:
        UserError: it is not there.
    """
    advice = f"npm install {PACKAGE}, here or in a folder above, or give its folder by --runtime"
    here = Path.cwd()
    around = (parent / "node_modules" / PACKAGE for parent in (here, *here.parents))
    package = Path(folder) if folder is not None else next((each for each in around if each.is_dir()), None)
    if package is None:
        raise UserError(f"--format html: the npm package {PACKAGE} is not installed; {advice}")
    try:
        version = str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])
        return Runtime((package / "dist" / SCRIPT).read_bytes(), (package / "dist" / BINARY).read_bytes(), version)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{package}: not the npm package {PACKAGE} ({error}); {advice}") from None


def write_page(path: Path, model: TrainedModel, onnx: bytes, runtime: Runtime) -> None:
    """Writes the page.

    Args:
        path: file to write.
        model: names the classes, the side and the fit.
        onnx: the network, from pixels to probabilities.
        runtime: what runs it.
    """
    facts = {"classes": list(model.classes), "side": model.side, "fit": model.fit}
    script = Html(Path(__file__).with_name("page.js").read_text(encoding="utf-8"))
    count = f"{len(model.classes)} classes: {', '.join(model.classes)}" if len(model.classes) <= 20 else ""
    body = (
        tag("h1", "What does it show?"),
        tag("p", count or f"{len(model.classes)} classes", class_="faint"),
        Html(
            '<label id="drop" for="file">Drop a photograph here, or choose one'
            '<input id="file" type="file" accept="image/*"></label>'
        ),
        tag("p", "loading …", id="status", role="status"),
        Html('<canvas id="shown" hidden></canvas>'),
        tag("ol", id="answer"),
        tag("p", f"Nothing leaves this page. It runs on ONNX Runtime Web {runtime.version}.", class_="faint"),
        _data("facts", json.dumps(facts).encode()),
        _data("network", onnx),
        _data("runtime", runtime.script),
        _data("binary", runtime.binary),
        tag("script", script, type="module"),
    )
    # blob: is the runtime's script, unpacked; no policy but this one lets WebAssembly run without eval
    policy = (
        f"script-src {script_source(script)} blob: 'wasm-unsafe-eval'; connect-src blob: data:; img-src blob: data:"
    )
    path.write_text(document("Classifier", *body, style=_STYLE, policy=policy), encoding="utf-8")


def _data(name: str, content: bytes) -> Html:
    packed = base64.b64encode(gzip.compress(content, mtime=0)).decode()
    return tag("script", Html(packed), type="application/octet-stream", id=name)


_STYLE = """
#drop { display: block; margin: 1.5rem 0; padding: 2.5rem 1rem; border: 2px dashed var(--line); border-radius: 8px;
  text-align: center; background: var(--soft); cursor: pointer }
#drop.over { border-color: var(--blue) }
#drop input { display: block; margin: 1rem auto 0; max-width: 100% }
#shown { width: 10rem; height: 10rem; border-radius: 6px; image-rendering: pixelated }
#answer { list-style: none; padding: 0; max-width: 32rem }
#answer li { display: grid; grid-template-columns: 1fr 4rem; gap: .1rem .75rem; margin: .5rem 0 }
#answer li span:last-of-type { text-align: right; font-variant-numeric: tabular-nums }
#answer meter { grid-column: 1 / -1; width: 100% }
"""
