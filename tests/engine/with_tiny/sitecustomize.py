"""Registers the backbone `tiny` in a program that a test starts; see `tests.engine.tiny`.

Python imports this before the program. It imports the table of backbones, and no TensorFlow.
"""

from tests.engine import tiny

tiny.register()
