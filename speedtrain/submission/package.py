"""Packages a recipe as a submission: one zip that trains and predicts by itself, on any machine.

The same inputs give the same bytes: files are sorted, and stored without compression, dates and owners.
"""

import hashlib
import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from speedtrain import __version__
from speedtrain.chosen_tricks import with_added
from speedtrain.config import Config, read_recipe, resolve
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.member_configs import in_words, member_configs
from speedtrain.starting_point import refuse_frozen_random_layers
from speedtrain.training.epoch_limit import epoch_limit
from speedtrain.training.long_runs import added_in_long_runs, as_long_run
from speedtrain.training.one_or_several import considered_members

INTERFACE = 1
"""Version of the interface that docs/submission.md describes."""

TOP_FILES = (
    *("__init__.py", "checked_types.py", "chosen_tricks.py", "config.py", "device.py", "errors.py", "files.py"),
    *("learning_rate_schedule.py", "machine.py", "member_configs.py", "starting_point.py", "thread_controller.py"),
)
ROOMS = ("data", "model", "network", "training")
"""The parts of speedtrain that training and predicting need. The packages tricks and timing are taken whole."""

REQUIREMENTS = ("torch", "torchvision", "numpy", "timm", "lightning", "pillow", "pyyaml", "safetensors")


def package(
    out: Path,
    *,
    recipe: str | Path = "auto",
    run: Path | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    authors: str = "",
    version: str = "1",
    description: Path | None = None,
) -> dict[str, Any]:
    """Writes a submission.

    Args:
        out: file to write.
        recipe: name of a recipe, or path of a YAML file; default: `auto`.
        run: run directory whose final configuration is used instead of a recipe; default: none.
        settings: hyperparameters to change, dotted key → value, as in `--set`; default: none.
        name: name of the entry on the board; default: "speedtrain" and the name of the recipe or run.
        authors: who made it; default: empty.
        version: version of the submission; default: "1".
        description: text file with which the description begins; default: none.

    Returns:
        The manifest.

    Raises:
        UserError: there is no such recipe, run or description, training starts from given weights, or `out` cannot be
            written.
    """
    if name is not None and not (name.strip() and name.isprintable()):
        raise UserError(f"--name must be one line of text, got {name!r}")
    if run is not None:
        recipe = run / "config.yaml"
        if not recipe.is_file():
            raise UserError(f"--run {run}: not a run directory (it has no config.yaml)")
    keys = {**read_recipe(recipe), **(settings or {})}
    if given := keys.get("start_from") or (keys.get("pretrained") and "pretrained=true"):
        raise UserError(
            f"{run or recipe}: training starts from given weights ({given}), and a submission may bring none; "
            "add --set start_from=null --set pretrained=false for one from random weights"
        )
    config = resolve(recipe=recipe, settings=settings, budget=600.0)
    if run is not None and "max_epochs" not in keys:  # from before there was one
        config.max_epochs = None
    if config.labels is not None:
        raise UserError(
            f"{run or recipe}: labels are {config.labels}, and a submission gets one label an image; "
            "add --set labels=null"
        )
    # the paths of the entrant's images stay private, and the judge chooses the machine
    config.data, config.test, config.data_root = "auto", None, None
    config.columns, config.with_validation, config.snapshots = {}, False, 0
    config.seed, config.device, config.threads = 0, "auto", None
    members = member_configs(config) or considered_members(config)
    networks = members if config.members else (config, *members)
    for network in map(as_long_run, networks):
        refuse_frozen_random_layers(network.tricks)
        noise = network.tricks.get("forward_correction", {})
        if noise.get("file"):
            raise UserError(
                "forward_correction.file: a submission cannot read it; set forward_correction.noise instead"
            )
        if noise.get("noise") == "annotators":
            raise UserError(
                "forward_correction.noise: annotators, and a submission gets one label an image; set a number, or "
                "confident"
            )
    introduction = _read_text(description) if description else ""
    name = name or f"speedtrain {run.resolve().name if run else Path(recipe).stem}"
    files = {f"{folder}/{path.name}": path.read_bytes() for folder, path in _source()}
    scripts = Path(__file__).with_name("scripts")
    files |= {script: (scripts / script).read_bytes() for script in ("training.py", "test.py")}
    files["recipe.yaml"] = config.as_yaml().encode()
    for number, member in enumerate(members, 1):  # complete: what completes them is not in the zip
        files[f"members/{number}.yaml"] = member.as_yaml().encode()
    files["requirements.txt"] = "".join(f"{line}\n" for line in _requirements()).encode()
    files["DESCRIPTION.md"] = _describe(name, authors, introduction, config, networks).encode()
    files["LICENSE"] = _licence().encode()
    manifest = {
        "interface": INTERFACE,
        "name": name,
        "authors": authors,
        "version": version,
        "licence": "MIT",
        "made_by": f"speedtrain {__version__}",
        "files": {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())},
    }
    files["manifest.json"] = (json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode()
    try:
        write_atomic(out, _zip(files))
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None
    return manifest


def _source() -> list[tuple[str, Path]]:
    """The source files, each with its folder in the zip."""
    application = Path(__file__).parents[1]
    paths = [application / name for name in TOP_FILES]
    for folder in (*(application / room for room in ROOMS), *(application.with_name(n) for n in ("tricks", "timing"))):
        paths += sorted(folder.rglob("*.py"))
    return [(str(path.parent.relative_to(application.parent)), path) for path in paths]


def _zip(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in sorted(files):
            entry = zipfile.ZipInfo(path)  # dated 1980; not compressed, because compressors differ
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, files[path])
    return content.getvalue()


def _requirements() -> list[str]:
    """The versions installed here, with which it was tested; a suffix such as `+cpu` is left out."""
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]


def _licence() -> str:
    beside = Path(__file__).parents[2] / "LICENSE"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    text = metadata.distribution("speedtrain").read_text("licenses/LICENSE")
    if text is None:
        raise UserError("this installation of speedtrain has no LICENSE file; install it again")
    return text


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--description {path}: cannot be read ({error})") from None


def _describe(name: str, authors: str, introduction: str, config: Config, networks: Sequence[Config]) -> str:
    """DESCRIPTION.md: what is trained, how, and with which tricks."""
    from tricks import TRICKS

    def choice(value: object) -> str:
        return "chosen by measuring the machine" if value == "auto" else str(value)

    long = {key: values for network in networks for key, values in added_in_long_runs(network).items()}
    limits = sorted({epoch_limit(network, 5000) for network in networks} - {math.inf})
    limits_if_long = {epoch_limit(as_long_run(network), 5000) for network in networks} - {*limits, math.inf}
    of_all = " or ".join(f"{limit:g}" for limit in limits)
    of_long = f" ({max(limits_if_long):g} with {', '.join(long)})" if limits_if_long else ""
    facts = {
        "network": config.model,
        "side of the images": choice(config.side),
        "width": choice(config.width),
        "batch size": choice(config.batch_size),
        "precision": choice(config.precision),
        "optimizer": f"SGD, peak learning rate {config.lr:g}, momentum {config.momentum:g}"
        f"{' (Nesterov)' if config.nesterov else ''}, weight decay {config.weight_decay:g}",
        "schedule": ", ".join(f"×{factor:g} at {progress:.0%}" for progress, factor in config.schedule)
        + " of the time, linear in between",
        "end": "with the budget"
        + (f", or after {of_all} epochs" if limits else "")
        + (f" of 5,000 images{of_long}" if limits and config.max_epochs == "auto" else ""),
    }
    lines = [f"# {name}", ""]
    lines += [f"By {authors}.", ""] if authors else []
    lines += [introduction, ""] if introduction else []
    lines += ["Trains by the clock, from random weights, on the training images alone.", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["", "## Tricks", ""]
    tricks = {key: values for network in reversed(networks) for key, values in network.tricks.items()}
    tricks = with_added(tricks, {key: values for key, values in long.items() if key not in tricks})
    for key, values in tricks.items():
        trick = TRICKS[key]
        summary = " ".join((trick.__doc__ or "").strip().partition("\n\n")[0].split())
        changed = ", ".join(f"{field} {value}" for field, value in values.items())
        paper = f" Source: {trick.paper}." if trick.paper else ""
        when = ""
        if config.in_long_runs and key in long and not any(key in network.tricks for network in networks):
            when = f" Only if width × epochs is predicted to be {config.in_long_runs['width_times_epochs']:g} or more."
        lines.append(f"- **{key}**{f' ({changed})' if changed else ''}: {summary}{when}{paper}")
    lines += [] if tricks else ["None."]
    if len(networks) > 1:
        own, when = config.members, ""
        if config.or_members and not own:
            own, when = config.or_members["networks"], ", each once or twice, if this is predicted to be better"
        words = f"Several networks train at the same time{when}. Their answers are averaged:"
        lines += ["", "## Members", "", words, ""]
        lines += [f"{number}. {in_words(member)}" for number, member in enumerate(own, 1)]
    lines += ["", "## To run it", "", "```", "pip install -r requirements.txt"]
    lines += ["python training.py --data TRAIN.npz --net_sav weights --budget 600"]
    lines += ["python test.py --data IMAGES.npz --net_sav weights --predictions predictions.npy", "```", ""]
    return "\n".join(lines)
