"""The zip for entrants: rules as a page, the public images, an example, and the command that rehearses the judging.

Nothing of the secret test images is in it, neither images nor labels nor their number.
"""

import importlib.metadata
import io
import platform
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from speedtrain.data import Data, Images
from speedtrain.errors import UserError
from speedtrain.files import write_atomic
from speedtrain.judge.competition import FILE, Competition, Regime
from speedtrain.judge.competition_check import load_regime
from speedtrain.judge.ranking import method
from speedtrain.judge.sandbox import PACKAGES
from speedtrain.judge.settings import Settings, bytes_of, gpu_devices, in_bytes
from speedtrain.judge.verdict import count
from speedtrain.judge.weight_copies import instants
from speedtrain.view.html import Html, bullets, definitions, page, section, tag

EXAMPLE = "example_submission"
DATE = (1980, 1, 1, 0, 0, 0)
"""Of every file: the same competition gives the same zip."""


def write_kit(competition: Competition, regimes: Mapping[str, Data], out: Path) -> None:
    """Writes the kit of a competition.

    Args:
        competition: the competition.
        regimes: name → its images, of which the training images are taken.
        out: the zip.

    Raises:
        UserError: a public test set cannot be used, or the zip cannot be written.
    """
    files: dict[str, bytes] = {}
    sections: list[dict[str, Any]] = []
    for regime in competition.regimes:
        train = regimes[regime.name].train
        sections.append(_public_section(regime))
        if regime.how_to_get is None:
            files[f"data/{_file(regime, 'train')}"] = _npz(train)
            if regime.public_test is not None:
                public = load_regime(competition, regime, regime.public_test).test
                files[f"data/{_file(regime, 'public_test')}"] = _npz(public)
    files[FILE] = _public_file(competition, sections).encode()
    files["RULES.html"] = rules_page(competition).encode()
    files["README.md"] = _readme(competition).encode()
    for path in sorted(example_folder().iterdir()):
        if path.is_file():
            files[f"{EXAMPLE}/{path.name}"] = path.read_bytes()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(files.items()):
            entry = zipfile.ZipInfo(name, DATE)
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    try:
        write_atomic(out, content.getvalue())
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror})") from None


def example_folder() -> Path:
    """Where the plain example lies: inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent.parent / "examples" / "plain_submission"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "examples" / "plain_submission"


def _file(regime: Regime, role: str) -> str:
    return f"{regime.name}-{role}.npz" if regime.name else f"{role}.npz"


def _npz(images: Images) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, images=images.images, labels=images.labels, classes=np.array(images.classes))
    return content.getvalue()


def _public_section(regime: Regime) -> dict[str, Any]:
    section: dict[str, Any] = {"name": regime.name} if regime.name else {}
    section["train"] = f"data/{_file(regime, 'train')}"
    if regime.public_test is not None:
        section["public_test"] = f"data/{_file(regime, 'public_test')}"
    if regime.how_to_get is not None:
        section["how_to_get"] = regime.how_to_get
    return section


def _public_file(competition: Competition, sections: list[dict[str, Any]]) -> str:
    """`competition.yaml` without what is secret, with every limit as the judge has it."""
    settings, score, rules = competition.settings, competition.settings.score, competition.settings.rules
    given: dict[str, Any] = {"name": competition.name, "description": competition.description}
    given |= {"budget": settings.budget, "test_budget": settings.test_budget, "runs": settings.runs}
    given |= {"side": competition.side or "auto", "fit": competition.fit, "drift": settings.drift}
    given |= {"data": sections[0]} if len(sections) == 1 else {"regimes": sections}
    given["limits"] = {"memory": _size(settings.memory), "disk": _size(settings.disk), "cpus": settings.cpus}
    given["limits"] |= {"gpus": settings.gpus, "processes": settings.processes}
    given["rules"] = {"pretrained_weights": rules.pretrained_weights, "licence": rules.licence}
    given["rules"] |= {"largest_file": _size(rules.largest_file), "largest_zip": _size(rules.largest_zip)}
    given["score"] = {"kind": score.kind}
    if score.over_time:
        given["score"] |= {"t0": score.t0, "target": score.target, "copies": score.copies}
    given["dates"] = {"opens": competition.opens, "closes": competition.closes}
    return yaml.safe_dump(_without_blanks(given), sort_keys=False, allow_unicode=True, width=100)


def _without_blanks(values: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that have a value; whole numbers as such."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            value = _without_blanks(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is not None and value != {}:
            found[key] = value
    return found


def _size(number: int) -> str:
    """A size as a person writes it, where that is exact."""
    text = in_bytes(number).replace(" ", "").removesuffix("bytes")
    return text if bytes_of("", text, least=0) == number else str(number)


COMMANDS = f"""python -m zipfile -c submission.zip {EXAMPLE}/
python -m speedtrain verify submission.zip --competition {FILE}
"""
"""What an entrant types, in the folder of the unpacked kit."""


def _readme(competition: Competition) -> str:
    paragraphs = [f"# {competition.name}", competition.description.strip()]
    paragraphs += ["The rules are in `RULES.html`."]
    for regime in competition.regimes:
        if regime.how_to_get is not None:
            roles = ["train", *(["public_test"] if regime.public_test is not None else [])]
            files = " and ".join(f"`data/{_file(regime, role)}`" for role in roles)
            paragraphs.append(f"Images: {regime.how_to_get.strip()} Save them as {files}.")
    paragraphs += [
        "A submission is a zip with two programs and a manifest. Install speedtrain, then make one from the example "
        "and rehearse the judging:",
        f"```\n{COMMANDS}```",
        f"`{EXAMPLE}/` is a hundred lines of plain PyTorch. Change it: first the name in `manifest.json`. The command "
        "`verify` trains once with the whole budget and scores it on the public test images (or on a fifth of the "
        "training images). It says which rule is kept or broken, and the score of this run. The board has the mean of "
        "all runs, on secret images.",
    ]
    return "\n\n".join(part for part in paragraphs if part) + "\n"


def rules_page(competition: Competition) -> str:
    """The rules as a page."""
    settings = competition.settings
    dates = {"opens": competition.opens, "closes": competition.closes}
    facts = {
        **{name: str(day) for name, day in dates.items() if day},
        "time for training": f"{settings.budget:g} s, from the start of the process to its kill",
        "time for predicting": f"{settings.test_budget:g} s",
        "runs": count(settings.runs, "run"),
        "training sets": ", ".join(regime.name for regime in competition.regimes if regime.name),
        "images": "of their own size" if competition.side is None else f"{competition.side} pixels a side, RGB",
        "cores": str(settings.cpus),
        "GPUs": str(len(gpu_devices()) if settings.gpus is None else settings.gpus),
        "memory": f"{in_bytes(settings.memory)}, all processes together",
        "disk": in_bytes(settings.disk),
        "processes and threads": str(settings.processes),
        "network": "none but a loopback",
        "packages": f"Python {platform.python_version()}, {', '.join(_versions())}, and what they need",
    }
    return page(
        competition.name,
        tag("h1", competition.name),
        *(tag("p", part) for part in competition.description.strip().split("\n\n") if part),
        section("Limits", definitions(facts)),
        section(
            "What is scored",
            tag("p", method(settings.score)),
            tag("p", "Secret test images decide. They are neither in this kit nor among its images."),
        ),
        section("What a submission may hold", bullets(_zip_rules(settings))),
        section("The programs", *_interface(settings)),
        section("Rehearse the judging", tag("p", "In the folder of the unpacked kit:"), tag("pre", COMMANDS)),
        style="pre { overflow-x: auto; padding: .75rem; background: var(--soft) }",
    )


def _versions() -> list[str]:
    """The packages that a submission may import, with the versions on the organiser's machine."""
    return [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]


def _zip_rules(settings: Settings) -> list[str]:
    rules = settings.rules
    licence = ' and a "licence", any one' if rules.licence else ""
    found = [
        f"A zip of at most {in_bytes(rules.largest_zip)}, also when unpacked.",
        f"No file in it over {in_bytes(rules.largest_file)}.",
        "training.py, test.py and manifest.json, at its root or in one folder that holds everything.",
        f'The manifest has "interface": 1, a "name"{licence}; "authors", "version" and "files" are optional.',
    ]
    if rules.pretrained_weights:
        found.append("It may bring weights and data.")
    else:
        found.append("No weights and no data, in any form. Every network starts from random weights.")
    return found


def _instants(settings: Settings) -> str:
    at = instants(settings.budget, settings.score.t0, settings.score.copies)
    return ", ".join(f"{seconds:.3g}" for seconds in at)


def _interface(settings: Settings) -> list[Html]:
    return [
        tag(
            "p",
            "training.py --data TRAIN.npz --net_sav CKPT --budget SECONDS trains on images (uint8 [N, side, side, 3]), "
            "labels (int64 [N]) and classes (their names), and saves what it has learned in the file CKPT. The process "
            "is killed without a warning: save often, under another name first, and rename. It may end earlier. The "
            "environment variable SEED has a different value in every run of a submission.",
        ),
        tag(
            "p",
            "test.py --data IMAGES.npz --net_sav CKPT --predictions OUT.npy predicts images without labels, and writes "
            "an int64 array [N] of class indices by numpy.save. It predicts; it must not train.",
        ),
        *(
            [
                tag(
                    "p",
                    f"The judge looks at CKPT {_instants(settings)} s after the start, and copies it if changed. It "
                    "scores the copies, and the weights of the end, by test.py after the run. A file that is being "
                    f"written is not copied. All copies of a run together may have {in_bytes(settings.disk)}; later "
                    "ones are left out.",
                )
            ]
            if settings.score.over_time
            else []
        ),
    ]
