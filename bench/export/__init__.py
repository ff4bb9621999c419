"""The inference network alone, as a file for others to run: what is shipped of a finished run.

Every file is read back and compared with the run before it is written. Trains and times nothing.
"""

from bench.export.weights_file import Shipped, load_exported

__all__ = ["Shipped", "load_exported"]
