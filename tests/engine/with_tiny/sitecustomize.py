"""Registers the backbone `tiny` in a program that a test starts; see `tests.engine.tiny`.

Python imports this before the program: nothing is imported here until the program itself does.
"""

import importlib.abc
import importlib.util
import sys

TABLE = "engine.models.backbones"


class Finder(importlib.abc.MetaPathFinder):
    """Finds the module of the table, and registers `tiny` once it has run."""

    def find_spec(self, name, path, target=None):
        if name != TABLE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            from tests.engine import tiny

            tiny.register()

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder())
