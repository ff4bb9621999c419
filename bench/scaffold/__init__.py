"""Methods and backbones that work at once: what `bench method new` and `backbone new` write."""

from bench.scaffold.package import class_name, new_backbone, new_package

__all__ = ["class_name", "new_backbone", "new_package"]
