"""Changes a program that a test starts; see `tests.engine.tiny`.

Python imports this before the program. The backbone `tiny` is registered, for which no TensorFlow
is imported. Environment variables change more:

FITTING: a device on which more than so many images at a time don't fit.
TRIAL: trials of what fits write their process number to this file, and then do nothing.
"""

import importlib.abc
import importlib.util
import os
import sys
import time

from tests.engine import tiny


class Hook(importlib.abc.MetaPathFinder):
    """Finds a module, and changes it once it has run."""

    def __init__(self, module, change):
        self.module, self.change = module, change

    def find_spec(self, name, path, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            self.change(module)

        spec.loader.exec_module = exec_module
        return spec


def limit_memory(train_step):
    from tensorflow import errors

    call = train_step.TrainStep.__call__

    def limited(step, *arguments):
        recipe = step.recipe
        if recipe.batch_size // recipe.gradient_accumulation_steps > int(os.environ["FITTING"]):
            raise errors.ResourceExhaustedError(None, None, "OOM when allocating a tensor")
        return call(step, *arguments)

    train_step.TrainStep.__call__ = limited


tiny.register()
if "FITTING" in os.environ:
    sys.meta_path.insert(0, Hook("engine.training.train_step", limit_memory))
if "TRIAL" in os.environ and "try" in sys.orig_argv:
    with open(os.environ["TRIAL"] + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(os.environ["TRIAL"] + ".part", os.environ["TRIAL"])
    time.sleep(600)
