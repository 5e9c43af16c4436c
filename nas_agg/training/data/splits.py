"""Which image is in which split: index arrays, which follow from each image's own bytes.

A test image is one whose digest is below a threshold. That depends on no other image, so adding and removing files
never moves an image into or out of the test split, and copies of an image are always in the same split. If no image is
below the threshold, the test split is empty, and networks are not tested: to draw one all the same would depend on the
others. Validation images are those of the lowest digests of their class, mixed with the seed: they may change as the
data grow, but only with the training images.

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
_NO_TEST = "no test images, so networks are not tested: "
_NONE_DRAWN = (
    "an image's content decides whether it is one, so that none ever moves from training to test, and none of these {} "
    "is; add images, or provide a test split"
)
_NONE_ASSIGNED = "images for training or validation never become test images; provide a test split"


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
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise InputError(f"seed: must be a whole number of at least 0, not {seed!r}")
    remaining, test = _test_split(samples)
    if not len(remaining):
        raise InputError(f"{samples.name}: all {len(test):,} images are test images; add images")
    train, validation = _validation_split(samples, remaining, seed, validation_share, validation_images)
    if train_images is not None:
        _, train = _draw_count(samples, train, train_images, [seed, 1], f"{samples.name}: train_images")
    splits = {"training": train, "validation": validation, "test": test}
    notes: tuple[str, ...] = ()
    if not len(test):
        del splits["test"]
        is_drawn = (samples.parts == Part.UNASSIGNED).any()
        notes = (_NO_TEST + (_NONE_DRAWN.format(f"{len(remaining):,}") if is_drawn else _NONE_ASSIGNED),)
    return Indices(train, validation, test, notes + _missing_classes(samples, splits))


def _test_split(samples: Samples) -> tuple[np.ndarray, np.ndarray]:
    """The images for training and validation, and the test images: those of the source, and those that are drawn.

    Images that the source assigns to training or validation are never drawn, and validation images never take the place
    of missing test images, or removing the last test image would move them. All
    images or none may be test images, which happens to a dozen images, hardly ever to more.
    """
    known, test, index = (np.flatnonzero(samples.parts == part) for part in (Part.TRAIN, Part.TEST, Part.UNASSIGNED))
    if samples.keys is None:
        rest, drawn = _draw_share(samples, index, TEST_SHARE, [_TEST_SEED]) if len(index) else (index, index)
    else:
        is_drawn = samples.keys[index, 0] < np.uint64(int(TEST_SHARE * 2**64))
        rest, drawn = index[~is_drawn], index[is_drawn]
    remaining, test = np.sort(np.concatenate([known, rest])), np.sort(np.concatenate([test, drawn]))
    return remaining, test


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
