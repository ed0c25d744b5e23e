"""Looks at images before the training: what is broken, doubled, mislabelled or odd."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import Progress

from engine.cli import flags as cli_flags
from engine.cli import train as cli_train
from engine.core.errors import UserError
from engine.core.files import write
from engine.runtime import tensorflow_setup


def define(values: flags.FlagValues) -> None:
    cli_flags.place(values, "out", "doctor", "folder for report.html and report.json, or none")
    what = "CSV file to write with the images that are fit to use"
    cli_flags.place(values, "write_manifest", None, what)
    cli_flags.whole(values, "threads", None, "CPU threads; all cores if not given", least=1)


def main(argv: list[str]) -> None:
    groups = (cli_flags.define_images, define)
    parsed = cli_flags.parse("[flags]", groups, argv, cli_train.names(), __doc__)
    spec = cli_flags.data_spec(parsed)
    if spec is None:
        raise cli_flags.FlagError(cli_flags.NO_IMAGES)
    if parsed.write_manifest and spec.source == "tfds":
        raise cli_flags.FlagError(
            "--write_manifest lists files, and the images of --dataset lie in record files; "
            "leave it away"
        )
    if parsed.write_manifest and _same_file(parsed.write_manifest, spec.location):
        raise cli_flags.FlagError(
            f"--write_manifest={parsed.write_manifest}: is the manifest that is read, which stays "
            "as it is; name another file"
        )
    threads = tensorflow_setup.start_tensorflow(parsed.threads)

    from engine.report import doctor_page
    from pipelines.doctor import clean_manifest, examine

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("examining", total=None)
        examined = examine.examine(
            spec, threads, lambda done, of: bar.update(task, completed=done, total=of)
        )
    result = examined.summary()
    for line in doctor_page.lines(result):
        print(line)
    if parsed.out != "none":
        folder = Path(parsed.out)
        text = json.dumps(doctor_page.to_json(result), indent=2) + "\n"
        save("out", folder / "report.json", text.encode())
        page = doctor_page.page(result, examined.thumbnail)
        save("out", folder / "report.html", page.encode())
        print(f"written to {folder / 'report.html'} and {folder / 'report.json'}")
    if parsed.write_manifest:
        place = parsed.write_manifest
        manifest = clean_manifest.clean_manifest(examined, place)
        save("write_manifest", Path(place), manifest.contents)
        omitted = ", ".join(f"{count:,} {reason}" for reason, count in manifest.omitted.items())
        print(f"{manifest.listed:,} images listed" + (f", omitted: {omitted}" if omitted else ""))
        print(f"train with {clean_manifest.manifest_flags(examined.examples, place)}")


def _same_file(one: str, other: str) -> bool:
    one, other = os.path.expanduser(one), os.path.expanduser(other)
    return os.path.exists(one) and os.path.exists(other) and os.path.samefile(one, other)


def save(flag: str, path: Path, contents: bytes) -> None:
    try:
        os.makedirs(path.parent, exist_ok=True)
        write(path, contents)
    except OSError as error:
        raise UserError(
            f"--{flag}: {path} can't be written ({error.strerror}); name another place"
        ) from None
