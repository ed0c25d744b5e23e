"""Examines images before training: what is broken, duplicate, mislabelled or unusual.

Ends with 1 where there are errors.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from rich.console import Console
from rich.progress import Progress

from engine.cli import command_line
from engine.cli import flags as cli_flags
from engine.cli import train as cli_train
from engine.cli.flag_types import Choice, define, define_options, define_text
from engine.cli.parsed_flags import FlagError, ParsedFlags
from engine.commands import doctor
from engine.commands.doctor import DoctorOptions
from engine.core.findings import ERROR
from engine.core.text import byte_size, counted

if TYPE_CHECKING:
    from pipelines.doctor.examine import ExaminedDataset


def define_doctor(values: flags.FlagValues) -> None:
    define_text(values, "out", "doctor", "folder for report.html and report.json, or none")
    define_options(values, DoctorOptions)
    text = "list the caches of decoded images in --cache_dir, or remove them; examines nothing"
    define(values, "pixel_cache", None, Choice(("show", "clear")), text)
    cli_flags.define_cache_dir(values)


def main(argv: list[str]) -> None:
    """Raises:
    SystemExit: the images have errors.
    """
    groups = (cli_flags.define_images, define_doctor)
    parsed = command_line.parse("[flags]", groups, argv, cli_train.names(), __doc__)
    if parsed.pixel_cache:
        pixel_cache(parsed)
        return
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


def pixel_cache(parsed: ParsedFlags) -> None:
    """Lists the caches of decoded images, or clears them and lists those in use.

    Raises:
      FlagError: there is no folder for them.
    """
    folder = cli_flags.cache_options(parsed).folder
    if folder is None:
        raise FlagError("--cache_dir=none and --pixel_cache; name the folder, or omit --cache_dir")
    before = doctor.list_pixel_caches(folder)
    left = before if parsed.pixel_cache == "show" else doctor.clear_pixel_caches(folder)
    if left is not before:
        freed = sum(cache.nbytes for cache in before) - sum(cache.nbytes for cache in left)
        print(f"{byte_size(freed)} removed from {folder}")
    total = byte_size(sum(cache.nbytes for cache in left))
    print(f"{counted(len(left), 'cache', 'caches')} of decoded images in {folder}, {total}")
    for cache in left:
        used = datetime.date.fromtimestamp(cache.used)
        print(f"  {byte_size(cache.nbytes):>8}  last used {used}  {cache.path.name}")


def doctor_options(parsed: ParsedFlags) -> DoctorOptions:
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
