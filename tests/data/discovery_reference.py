"""The release's choice of labelled images, step by step, and small helpers of the tests of discovery's data sets."""

import numpy as np


def spelled_out(classes, old, fraction=0.5):
    """The labelled indices as the release finds them: a subset by class, then a draw from it."""
    subset = []
    for index, number in enumerate(classes):
        if number in old:
            subset.append(index)
    state = np.random.get_state()
    np.random.seed(0)
    drawn = np.random.choice(range(len(subset)), replace=False, size=(int(fraction * len(subset)),))
    np.random.set_state(state)
    return sorted(subset[position] for position in drawn)


def labelled(data):
    return data.train.labelled.nonzero().flatten().tolist()


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
