"""The command `export`: its options, and from them to a call and its exit code. Light to import."""

import signal

from jsonargparse import ArgumentParser, Namespace


def add_export_options(parser: ArgumentParser) -> None:
    """Adds the options of `export`."""
    add = parser.add_argument
    add("--run", metavar="DIR|FILE", required=True, help="run directory, or its weights.safetensors")
    add("--format", metavar="onnx|torch|html", required=True, help="html is a page that runs the network in a browser")
    add("--out", metavar="FILE", help="file to write, replaced if it exists (default: model.* beside the weights)")
    add("--augmented", action="store_true", help="with test-time augmentation: as the score, but slower (default: no)")
    add("--images", metavar="PATH", help=".npz, folder or image file to try it on (default: the run's test images)")
    add("--runtime", metavar="DIR", help="for html: folder of the npm package onnxruntime-web (default: npm's)")


def export_command(options: Namespace) -> int:
    """Exports, and says how the file compares with the model."""
    from speedtrain.export.export import export
    from speedtrain.run.progress import Display

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(number)  # which removes what was begun

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        path, proof = export(
            options.run,
            options.format,
            options.out,
            augmented=options.augmented,
            images=options.images,
            runtime=options.runtime,
            progress=Display().reading,
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    print(
        f"{path}: {path.stat().st_size / 2**20:.1f} MiB; on {proof.images} images the same classes as the model, "
        f"probabilities within {proof.difference:.1e}"
    )
    print(
        f"{proof.milliseconds:.2f} ms per image, the model itself {proof.own_milliseconds:.2f} ms "
        f"(batches of {proof.batch_size})"
    )
    return 0
