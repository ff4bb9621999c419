"""The UCI handwritten digits that ship with scikit-learn: small, real, and always at hand.

Owns the fixed split. No file of the data folder is read or written.
"""

from __future__ import annotations

import numpy as np
import torch

from bench.data.catalogue import DATASETS
from bench.data.identity import described
from bench.data.images import Dataset, ImageSet, hold_out

TEST_COUNT = 500
SPLIT_SEED = 0  # one split for everybody: a data set, not a choice of the run
BRIGHTEST = 16  # the scans count dark pixels in cells of 4x4


def load_digits() -> Dataset:
    """Return the digits, 1,297 for training and 500 for testing, each class in proportion."""
    from sklearn import datasets

    scans = datasets.load_digits()
    levels_nhw = scans.images.astype(np.int64)
    images_nhwc = (levels_nhw * 255 // BRIGHTEST).astype(np.uint8)[..., None]
    labels_n = torch.from_numpy(scans.target.astype(np.int64))
    everything = ImageSet(torch.from_numpy(images_nhwc), labels_n)
    train, test = hold_out(everything, TEST_COUNT, seed=SPLIT_SEED)
    return described(
        train,
        test,
        name="digits",
        title=DATASETS["digits"].title,
        class_names="0123456789",
        pad=1,
    )
