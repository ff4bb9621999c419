"""One CPU thread and a fixed seed for every test beside this file."""

from one_thread import one_thread

__all__ = ["one_thread"]
