"""Methods and backbones that work at once: what `bench method new` and `backbone new` write."""
