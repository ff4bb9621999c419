"""A new package with a method that works at once: what `bench method new` writes."""

from bench.scaffold.package import class_name, new_package

__all__ = ["class_name", "new_package"]
