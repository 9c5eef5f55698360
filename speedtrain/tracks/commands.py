"""The command `corrupt`: its options, and from them to a call and its exit code. Light to import."""

import sys

from jsonargparse import ArgumentParser, Namespace

from speedtrain.errors import UserError


def add_corrupt_options(parser: ArgumentParser) -> None:
    """Adds the options of `corrupt`."""
    add = parser.add_argument
    add("--data", metavar="NPZ", required=True, help=".npz with `images` and `labels`, clean")
    add("--out", metavar="NPZ", required=True, help="file to write; the true labels go to NAME.truth.npz beside it")
    add(
        "--imbalance",
        metavar="R",
        default="1",
        help="how many times as large the first class is as the last (default: 1)",
    )
    add(
        "--noise",
        metavar="symmetric:RATE|pair:RATE|imbalanced:RATE|NPY",
        help="share of wrong labels; symmetric: any other class, pair: the next, imbalanced: mostly large ones; "
        "or a matrix [K, K], a row per true class (default: none)",
    )
    add("--annotators", metavar="N", default="1", help="labels per image, with independent errors (default: 1)")
    add("--seed", metavar="N", default="0", help="seed of the random draws (default: 0)")


def corrupt_command(options: Namespace) -> int:
    """Makes a track, and prints its statistics."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from speedtrain.tracks.corrupt import corrupt

    try:
        imbalance, seed, annotators = float(options.imbalance), int(options.seed), int(options.annotators)
    except ValueError:
        given = ", ".join(repr(options[key]) for key in ("imbalance", "seed", "annotators"))
        raise UserError(f"--imbalance, --seed and --annotators must be numbers, got {given}") from None
    if seed < 0:
        raise UserError(f"--seed must be 0 or more, got {seed}")
    track = corrupt(
        options.data, options.out, imbalance=imbalance, noise=options.noise, annotators=annotators, seed=seed
    )
    for warning in track.warnings:
        print(warning, file=sys.stderr)
    table = Table("class", "images", "labelled so", "of these wrong")
    for number, name in enumerate(track.classes):
        labelled = int(track.confusion[:, number].sum())
        wrong = labelled - int(track.confusion[number, number])
        share = f"{wrong} ({wrong / labelled:.1%})" if labelled else "–"
        table.add_row(Text(name), str(track.counts[number]), str(labelled), share)
    Console(highlight=False, markup=False).print(table)
    images, labels = int(track.counts.sum()), int(track.confusion.sum())
    wrong = labels - int(track.confusion.trace())
    of = f" of {labels}" if labels != images else ""
    share = f"{wrong}{of} wrong labels ({wrong / labels:.1%})"
    print(f"{track.path}: {images} images, {share}; the true ones: {track.truth}")
    return 0
