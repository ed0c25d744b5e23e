"""Examines images before training: what is broken, duplicate, mislabelled or unusual."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from rich.console import Console
from rich.progress import Progress

from engine.cli import command_line, flag_types
from engine.cli import flags as cli_flags
from engine.cli import train as cli_train
from engine.commands import doctor
from engine.commands.doctor import DoctorOptions

if TYPE_CHECKING:
    from pipelines.doctor.examine import ExaminedDataset


def define(values: flags.FlagValues) -> None:
    flag_types.define_path(
        values, "out", "doctor", "folder for report.html and report.json, or none"
    )
    text = "CSV file to write with the images that are fit to train on"
    flag_types.define_path(values, "write_manifest", None, text)
    flag_types.define_integer(
        values, "threads", None, "CPU threads; all cores if not given", minimum=1
    )


def main(argv: list[str]) -> None:
    groups = (cli_flags.define_images, define)
    parsed = command_line.parse("[flags]", groups, argv, cli_train.names(), __doc__)
    options = doctor_options(parsed)
    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("examining", total=None)
        examined = doctor.diagnose(
            options, lambda done, total: bar.update(task, completed=done, total=total)
        )

    from engine.report import doctor_page

    for line in doctor_page.lines(examined.summary()):
        print(line)
    if parsed.out != "none":
        html, figures = doctor.write_report(examined, Path(parsed.out))
        print(f"written to {html} and {figures}")
    if options.manifest:
        write_manifest(examined, options.manifest)


@command_line.as_flag_errors()
def doctor_options(parsed: command_line.ParsedFlags) -> DoctorOptions:
    """
    Raises:
      FlagError: no images are named, or a value does not fit.
    """
    data = cli_flags.build_data_spec(parsed)
    if data is None:
        raise command_line.FlagError(cli_flags.NO_IMAGES)
    manifest = Path(parsed.write_manifest) if parsed.write_manifest else None
    return DoctorOptions(data, manifest, parsed.threads)


def write_manifest(examined: ExaminedDataset, path: Path) -> None:
    from pipelines.doctor.clean_manifest import manifest_flags

    manifest = doctor.write_manifest(examined, path)
    omitted = ", ".join(f"{count:,} {reason}" for reason, count in manifest.omitted.items())
    print(f"{manifest.listed:,} images listed" + (f", omitted: {omitted}" if omitted else ""))
    print(f"train with {manifest_flags(examined.examples, str(path))}")
