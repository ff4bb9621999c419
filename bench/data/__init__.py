"""Data sets as uint8 tensors on the device, their augmentation, and how they get onto disk.

Import from the modules themselves: `catalogue` names the sets, `load` loads, fetches and verifies
them, `augment` makes batches. Nothing heavy is imported here. Training is not this room's.
"""
