"""Which image is in which split: index arrays, which follow from each image's own bytes.

A test image is one whose digest is below a threshold. That depends on no other image, so adding and removing files
never moves an image into or out of the test split, and copies of an image are always in the same split. Validation
images are those of the lowest digests of their class, mixed with the seed: they may change as the data grow, but only
with the training images.

Data sets that never change (scikit-learn's, torchvision's, and arrays with a test split of their own) are split by
a random permutation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas_agg.common.errors import InputError
from nas_agg.training.data.samples import Part, Samples

TEST_SHARE = 0.2
SMALL = 10_000  # data sets with fewer training images use 20 % of them for validation, others 10 %
_TEST_SEED = 20_240_101  # the test images do not depend on the seed of a run
_NAMED = 5  # classes named in a note


@dataclass(frozen=True)
class Indices:
    """Sorted positions of the images of each split, int64, and notes about classes that a split lacks."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...]


def split_samples(
    samples: Samples,
    seed: int,
    validation_share: float | None = None,
    train_images: int | None = None,
    validation_images: int | None = None,
) -> Indices:
    """Split a data set.

    Args:
        samples: The data set.
        seed: Seed of the split into training and validation images.
        validation_share: Share of the images other than test images that is used for validation, if the data set has no
            validation split; by default 0.2, or 0.1 of large data sets.
        train_images: Number of training images to keep; by default all.
        validation_images: Number of validation images; replaces the share.

    Raises:
        InputError: There are too few images.
    """
    remaining = np.flatnonzero((samples.parts == Part.TRAIN) | (samples.parts == Part.UNASSIGNED))
    test = np.flatnonzero(samples.parts == Part.TEST)
    notes: tuple[str, ...] = ()
    if not len(test):
        remaining, test, notes = _test_split(samples, remaining)
    train, validation = _validation_split(samples, remaining, seed, validation_share, validation_images)
    if train_images is not None:
        _, train = _draw_count(samples, train, train_images, [seed, 1], f"{samples.name}: train_images")
    notes += _missing_classes(samples, {"training": train, "validation": validation, "test": test})
    return Indices(train, validation, test, notes)


def _test_split(samples: Samples, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Split off the test images; returns the rest, the test images and notes."""
    if samples.keys is None:
        return *_draw_share(samples, index, TEST_SHARE, [_TEST_SEED]), ()
    digests = samples.keys[index, 0]
    drawn = digests < np.uint64(int(TEST_SHARE * 2**64))
    if drawn.any() and not drawn.all():
        return index[~drawn], index[drawn], ()
    if len(index) < 3:
        raise InputError(f"{samples.name}: too few images to split; provide at least three per class")
    # No image is below the threshold, or all are; that happens to a dozen images, hardly ever to more.
    drawn = digests == digests.min()
    note = f"{len(index)} images are few: which of them is the test split may change when others are added"
    return index[~drawn], index[drawn], (note,)


def _validation_split(
    samples: Samples, remaining: np.ndarray, seed: int, share: float | None, count: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Split images into those for training and those for validation."""
    own = np.flatnonzero(samples.parts == Part.VALIDATION)
    what = f"{samples.name}: validation_images"
    if len(own):
        return remaining, own if count is None else _draw_count(samples, own, count, [seed], what)[1]
    if count is None:
        return _draw_share(samples, remaining, share or (0.2 if len(remaining) < SMALL else 0.1), [seed])
    train, validation = _draw_count(samples, remaining, count, [seed], what)
    if not len(train):
        raise InputError(f"{what} {count:,}: no training images would remain; use fewer")
    return train, validation


def _draw_count(
    samples: Samples, index: np.ndarray, count: int, seed: list[int], what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a number of images, each class in proportion by largest remainders; returns the rest and the drawn images.

    Raises:
        InputError: There are fewer images.
    """
    if not 1 <= count <= len(index):
        raise InputError(f"{what} {count:,}: must be 1 to {len(index):,}")
    ordered = index[_order(samples, index, seed)]
    strata = _strata(samples)[ordered]
    products = np.bincount(strata) * count
    quotas, remainders = products // len(ordered), products % len(ordered)
    quotas[np.argsort(-remainders, kind="stable")[: count - quotas.sum()]] += 1
    drawn = np.zeros(len(ordered), bool)
    for stratum, quota in enumerate(quotas):
        drawn[np.flatnonzero(strata == stratum)[:quota]] = True
    return np.sort(ordered[~drawn]), np.sort(ordered[drawn])


def _draw_share(samples: Samples, index: np.ndarray, share: float, seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a share of each class: at least one image of it, and never all; returns the rest and the drawn images.

    Raises:
        InputError: No class has two images.
    """
    ordered = index[_order(samples, index, seed)]
    strata = _strata(samples)[ordered]
    drawn = np.zeros(len(ordered), bool)
    for stratum in range(int(strata.max(initial=-1)) + 1):
        positions = np.flatnonzero(strata == stratum)
        drawn[positions[: min(max(1, round(share * len(positions))), len(positions) - 1)]] = True
    if not drawn.any():
        raise InputError(f"{samples.name}: too few images to split; provide at least three per class")
    if samples.keys is not None:  # copies of an image stay together
        keys = samples.keys[ordered, 1]
        copies = np.isin(keys, keys[drawn])
        drawn = drawn if copies.all() else copies
    return np.sort(ordered[~drawn]), np.sort(ordered[drawn])


def _order(samples: Samples, index: np.ndarray, seed: list[int]) -> np.ndarray:
    """A random order of some images: of their digests mixed with the seed, or a permutation."""
    if samples.keys is None:
        return np.random.default_rng(seed).permutation(len(index))
    salt = np.uint64(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    return np.argsort(mix(samples.keys[index, 1] ^ salt), kind="stable")


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: pseudorandom and one-to-one, uint64 (N,)."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _strata(samples: Samples) -> np.ndarray:
    """The class of each image, by which draws are stratified; a single stratum unless an image has one label."""
    return samples.targets if samples.task == "classification" else np.zeros(len(samples.targets), np.int64)


def _missing_classes(samples: Samples, splits: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Notes about classes without images in a split, or with a single image."""
    if samples.task == "regression":
        return ()
    counts = {name: _class_counts(samples, index) for name, index in splits.items()}
    notes = []
    single = np.flatnonzero(sum(counts.values()) == 1)
    if len(single):
        notes.append(f"a single image of {_class_list(samples, single)}")
    for name, count in counts.items():
        if len(missing := np.flatnonzero(count == 0)):
            notes.append(f"no {name} images of {_class_list(samples, missing)}")
    return tuple(notes)


def _class_counts(samples: Samples, index: np.ndarray) -> np.ndarray:
    if samples.task == "multilabel":
        return samples.targets[index].sum(0, dtype=np.int64)
    return np.bincount(samples.targets[index], minlength=len(samples.class_names))


def _class_list(samples: Samples, classes: np.ndarray) -> str:
    names = ", ".join(f"'{samples.class_names[label]}'" for label in classes[:_NAMED])
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return f"{'class' if len(classes) == 1 else 'classes'} {names}{more}"
