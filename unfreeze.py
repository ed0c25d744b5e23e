"""Unfreeze from Python: what the commands do, without a shell.

Functions take dataclasses of options and return what they found. They install no signal handlers,
never exit the process, and print nothing unless a logger is given. A name is imported when it is
first used, so `import unfreeze` alone does not start TensorFlow.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "engine.core.errors": ("UserError",),
    "engine.core.recipe": ("DataSpec", "Phase", "Recipe"),
    "engine.cli.train": ("recipe_from_flags",),
    "engine.commands.preset_recipe": ("further_recipe", "preset_recipe"),
    "engine.commands.shared_options": ("CacheOptions",),
    "engine.commands.train": ("TrainOptions", "train"),
    "engine.commands.evaluate": ("evaluate",),
    "engine.commands.evaluate_options": ("EvaluateOptions",),
    "engine.commands.compare": ("CompareOptions", "compare"),
    "engine.commands.predict": ("PredictOptions", "predict"),
    "engine.commands.export": ("ExportOptions", "export"),
    "engine.commands.doctor": ("DoctorOptions", "diagnose"),
    "engine.commands.open_run": ("Run", "open_run"),
    "engine.loggers.console": ("ConsoleLogger",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'unfreeze' has no attribute {name!r}; it has {__all__}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
