"""Image folders: the layouts of torchvision, ImageNet and Roboflow.

Class folders are either in the folder itself, or in folders of the splits: ``train`` and, optionally, ``val`` (or
``valid``, ``validation``) and ``test``, in any capitals. With ``train`` and ``val`` alone, as ImageNet is distributed,
``val`` is the test split, since results on ImageNet are those of its validation images, and a search must not choose by
them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nas_agg.common.errors import InputError, one_line
from nas_agg.training.data.samples import Part
from nas_agg.training.data.sources.listing import FileListing, ImageFile, LeftOut, image_files, subfolders

SPLIT_NAMES = {
    "train": Part.TRAIN,
    "training": Part.TRAIN,
    "val": Part.VALIDATION,
    "valid": Part.VALIDATION,
    "validation": Part.VALIDATION,
    "dev": Part.VALIDATION,
    "test": Part.TEST,
    "testing": Part.TEST,
}


def list_folder(path: Path) -> FileListing:
    """List the images of a folder with a folder per class.

    Raises:
        InputError: The folder is missing, its layout is none of those above, or a folder has no images.
    """
    if not path.is_dir():
        raise InputError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}")
    left_out = LeftOut(path)
    splits = _split_folders(path, subfolders(path, left_out), left_out)
    places, notes = _used_folders(splits)
    if path not in places.values():
        _count_stray_files(path, left_out)
    names = _class_names(places.get(Part.TRAIN) or places[Part.UNASSIGNED], path)
    files: list[ImageFile] = []
    labels: list[int] = []
    parts: list[int] = []
    for part, place in places.items():
        before = len(files)
        for label, found in enumerate(_class_files(place, names, part, left_out, is_root=place == path)):
            files += found
            labels += [label] * len(found)
        if len(files) == before:
            raise InputError(f"{place}: no images; put them into folders named after the classes in train")
        parts += [part] * (len(files) - before)
    return FileListing(
        path,
        tuple(names),
        files,
        np.array(labels, np.int64),
        np.array(parts, np.int8),
        notes + left_out.notes(),
        layout=tuple(part.name.lower() for part in splits),
    )


def _split_folders(path: Path, folders: list[Path], left_out: LeftOut) -> dict[Part, Path]:
    """The folder of each split, or the folder itself."""
    splits: dict[Part, list[Path]] = {}
    for folder in folders:
        if folder.name.lower() in SPLIT_NAMES:
            splits.setdefault(SPLIT_NAMES[folder.name.lower()], []).append(folder)
    others = [folder for folder in folders if folder.name.lower() not in SPLIT_NAMES]
    with_classes = {folder for group in splits.values() for folder in group if subfolders(folder)}
    if not splits or (others and not with_classes and len(splits) == 1):
        return {Part.UNASSIGNED: path}
    for part, group in splits.items():
        if len(group) > 1:
            names = " and ".join(f"'{folder.name}'" for folder in group)
            raise InputError(f"{path}: both {names} could be the {part.name.lower()} split; rename or remove one")
    places = {part: group[0] for part, group in splits.items()}
    if Part.TRAIN not in places:
        found = ", ".join(f"'{place.name}'" for place in places.values())
        raise InputError(f"{path}: split folders ({found}) but no 'train'; rename the one with the training images")
    flat = [place for place in places.values() if place not in with_classes]
    if flat:
        raise InputError(
            f"{flat[0]}: no class folders in the folder of a split; put the images of each class into a folder of "
            "their own, or list them with their labels in a CSV file (csv:FILE)"
        )
    for folder in others:
        left_out.add("folders beside the splits", str(folder))
    return {part: places[part] for part in sorted(places)}


def _used_folders(found: dict[Part, Path]) -> tuple[dict[Part, Path], tuple[str, ...]]:
    """What the folder of each split is used for, with a note if there is none for testing."""
    if Part.TEST in found or Part.UNASSIGNED in found:
        return found, ()
    train = found[Part.TRAIN]
    if Part.VALIDATION not in found:
        return {Part.UNASSIGNED: train}, (f"no test folder: test and validation images are drawn from {train.name}",)
    test = found[Part.VALIDATION]
    note = f"no test folder: images of {test.name} are the test split, validation images are drawn from {train.name}"
    return {Part.TRAIN: train, Part.TEST: test}, (note,)


def _class_names(place: Path, path: Path) -> list[str]:
    """The names of the class folders.

    Raises:
        InputError: There are fewer than two, or a name cannot be written to a file.
    """
    folders = subfolders(place)
    if len(folders) < 2:
        if not folders:
            found = "no class folders"
        else:
            inner = len(subfolders(folders[0]))
            hint = f"; did you mean folder:{folders[0]}?" if inner > 1 else ""
            found = f"only one class folder, '{folders[0].name}'{hint}"
        raise InputError(f"{path}: {found}; put the images of each class into a folder of their own, at least two")
    for folder in folders:
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{one_line(str(folder))}: the folder's name is not valid UTF-8 and cannot be the name of a class; "
                "rename it"
            ) from None
    return [folder.name for folder in folders]


def _class_files(place: Path, names: list[str], part: Part, left_out: LeftOut, is_root: bool) -> list[list[ImageFile]]:
    """The images of each class in the folder of a split.

    Raises:
        InputError: A class is unknown, or has no training images.
    """
    present = {folder.name for folder in subfolders(place, None if is_root else left_out)}  # the root's are counted
    unknown = sorted(present - set(names))
    if unknown:
        raise InputError(f"{one_line(str(place / unknown[0]))}: class '{one_line(unknown[0])}' is not in train")
    found = []
    for name in names:
        files = image_files(place / name, left_out) if name in present else []
        if not files and part in (Part.TRAIN, Part.UNASSIGNED):
            raise InputError(f"{place / name}: no images; add some or remove the folder")
        found.append(files)
    _count_stray_files(place, left_out)
    return found


def _count_stray_files(place: Path, left_out: LeftOut) -> None:
    """Count files beside the class folders."""
    stray = [entry for entry in sorted(place.iterdir()) if not entry.is_dir()]
    for entry in stray:
        left_out.add("files outside the class folders", str(entry))
