"""Examines images before training: what is broken, duplicate, mislabelled or unusual.

Ends with 1 where there are errors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from rich.console import Console
from rich.progress import Progress

from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli import train as cli_train
from engine.cli.flag_types import define_options, define_text
from engine.commands import doctor
from engine.commands.doctor import DoctorOptions
from engine.core.findings import ERROR

if TYPE_CHECKING:
    from pipelines.doctor.examine import ExaminedDataset


def define_doctor(values: flags.FlagValues) -> None:
    define_text(values, "out", "doctor", "folder for report.html and report.json, or none")
    define_options(values, DoctorOptions)


def main(argv: list[str]) -> None:
    """Raises:
    SystemExit: the images have errors.
    """
    groups = (cli_flags.define_images, define_doctor)
    parsed = command_line.parse("[flags]", groups, argv, cli_train.names(), __doc__)
    options = doctor_options(parsed)
    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("examining", total=None)
        examined = doctor.diagnose(
            options, lambda done, total: bar.update(task, completed=done, total=total)
        )

    from engine.report import doctor_page

    for line in doctor_page.lines(examined.summary):
        print(line)
    if parsed.out != "none":
        html, figures = doctor.write_report(examined, Path(parsed.out).expanduser())
        print(f"written to {html} and {figures}")
    if options.write_manifest:
        write_manifest(examined, options.write_manifest)
    if any(finding.kind.level == ERROR for finding in examined.summary.findings):
        raise SystemExit(1)


def doctor_options(parsed: command_line.ParsedFlags) -> DoctorOptions:
    """Raises:
    FlagError: no images are named, or a value does not fit.
    """
    return parsed.options(DoctorOptions, data=cli_flags.required_data(parsed))


def write_manifest(examined: ExaminedDataset, path: Path) -> None:
    from pipelines.doctor.clean_manifest import manifest_flags

    manifest = doctor.write_manifest(examined, path)
    omitted = ", ".join(f"{count:,} {reason}" for reason, count in manifest.omitted.items())
    print(f"{manifest.listed:,} images listed" + (f", omitted: {omitted}" if omitted else ""))
    print(f"train with {manifest_flags(examined.examples, str(path))}")
