"""What is said of a folder of images before anything is trained: what is taken, what is passed over, and what looks wrong.

To tell what has changed, a small file in ``data_dir`` holds which images were last loaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core.data_cache import keep_json, load_kept_json
from core.folder_files import folder_id
from core.folder_listing import IMAGE_ENDINGS, SEEN, SYSTEM, ending, printable
from core.image_folder import ImageFolder, Members

_NAMED_CLASSES = 12  # of more, the smallest and the largest are named
#: What versions before this one took for images.
_FIRST_ENDINGS = IMAGE_ENDINGS - {".jpe", ".jfif", ".pbm", ".pnm"}


def describe(root: Path, data_dir: Path, *, anomalies: bool) -> list[str]:
    """Lines about a folder that is used as a data set or as a set of anomalies.

    Raises:
        InputError: if the folder is missing or not laid out as a data set.
    """
    folder = ImageFolder.read(root, data_dir)
    splits = folder.splits(anomalies=anomalies)
    members = {split: folder.members(split) for split in splits}
    lines = [", ".join(_counts(split, members[split], anomalies=anomalies) for split in splits)]
    lines += [f"passed over: {text}" for text in [folder.passed_over_text()] if text]
    names = [name for split in splits for name in members[split].names]
    lines += _scaling(folder, names)
    if broken := [name for name in names if folder.fault(name)]:
        lines.append(
            f"at least {len(broken):,} broken image(s), with which no trial can run, e.g. "
            f"{printable(broken[0])} ({folder.fault(broken[0])})"
        )
    if not anomalies:
        lines += _warnings(folder, members["train"], members["test"])
    lines += _changes(folder, splits, data_dir, "they are evaluated again" if anomalies else "its trials are trained again")
    return [f"{folder.title}: {line}" for line in lines]


def scaled_from(root: Path, data_dir: Path) -> dict[str, str]:
    """Kind of values of more than 8 bits in a folder -> the range that they are scaled from."""
    return ImageFolder.read(root, data_dir).scaling.ranges


def remember(folder: ImageFolder, split: str, data_dir: Path) -> None:
    """Notes which images of a split were loaded, so that a later command can say what has changed since."""
    path, identity = _path(folder, split, data_dir), folder.identity(split)
    if (load_kept_json(path) or {}).get("identity") != identity:
        names = folder.members(split).names
        keep_json(path, {"identity": identity, "images": {name: folder.facts[name].digest[:16] for name in names}})


def _path(folder: ImageFolder, split: str, data_dir: Path) -> Path:
    return data_dir / f"folder-last-{folder_id(folder.tree.root)}-{split}.json"


def _counts(split: str, members: Members, *, anomalies: bool) -> str:
    images = f"{split} {len(members.names):,} images"
    if split == "anomalies":
        return f"{len(members.names):,} images as anomalies"
    if anomalies:
        return f"{len(members.names):,} images of {split}/ as anomalies for validation"
    counts = {name: int(n) for name, n in zip(members.classes, np.bincount(members.labels, minlength=len(members.classes)),
                                              strict=True)}  # fmt: skip
    if len(counts) <= _NAMED_CLASSES:
        return f"{images} ({', '.join(f'{name} {n:,}' for name, n in counts.items())})"
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    return f"{images} ({len(counts)} classes of {counts[least]:,} ({least}) to {counts[most]:,} ({most}))"


def _scaling(folder: ImageFolder, names: list[str]) -> Iterator[str]:
    if pages := sum(folder.facts[name].pages > 1 for name in names):
        yield f"{pages:,} TIFF file(s) hold several images, of which the first is taken"
    rules = Counter(rule for name in names if (rule := folder.rule(name)) and not folder.fault(name))
    for rule, n in rules.items():
        if rule.startswith("integers"):
            bits = int(rule.split()[2])
            yield f"{n:,} image(s) of more than 8 bits a grey value use {bits} bits: they are scaled from 0..{2**bits - 1}"
        else:
            yield f"{n:,} image(s) of floating-point values are scaled from 0..255"
    dark: dict[str, list[str]] = {}
    for name in names:
        if why := folder.scaling.darkness(folder.facts[name]):
            dark.setdefault(why, []).append(name)
    for why, found in dark.items():
        yield f"warning: {len(found):,} image(s) become dark, e.g. {printable(found[0])}: {why}"


def _warnings(folder: ImageFolder, train: Members, test: Members) -> Iterator[str]:
    """What looks wrong: the same image on both sides or under two labels, a class that is not tested."""
    first = {split: _by_content(folder, members) for split, members in (("train", train), ("test", test))}
    both = [digest for digest in first["train"] if digest in first["test"]]
    if both:
        one, other = (printable(first[split][both[0]][0][0]) for split in ("train", "test"))
        yield f"warning: {len(both):,} image(s) are in train and in test, e.g. {one} and {other}"
    labels: dict[str, dict[int, str]] = {}
    for found in first.values():
        for digest, images in found.items():
            for name, label in images:
                labels.setdefault(digest, {}).setdefault(label, name)
    mixed = [names for names in labels.values() if len(names) > 1]
    if mixed:
        one, other = (printable(name) for name in list(mixed[0].values())[:2])
        yield f"warning: {len(mixed):,} image(s) have two labels, e.g. {one} and {other}"
    tested = set(test.labels.tolist())
    untested = [name for label, name in enumerate(train.classes) if label not in tested]
    if untested:
        more = f" and {len(untested) - _NAMED_CLASSES} more" if len(untested) > _NAMED_CLASSES else ""
        yield f"warning: no test images of {', '.join(untested[:_NAMED_CLASSES])}{more}"


def _by_content(folder: ImageFolder, members: Members) -> dict[str, list[tuple[str, int]]]:
    found: dict[str, list[tuple[str, int]]] = {}
    for name, label in zip(members.names, members.labels.tolist(), strict=True):
        found.setdefault(folder.facts[name].digest, []).append((name, label))
    return found


def _changes(folder: ImageFolder, splits: list[str], data_dir: Path, so: str) -> Iterator[str]:
    """Why trials that used the folder before are made again, if they are."""
    differences: Counter[str] = Counter()
    rescaled = False
    for split in splits:
        last = load_kept_json(_path(folder, split, data_dir))
        if last is None or last["identity"] == folder.identity(split):
            continue
        before = last["images"]
        now = {name: folder.facts[name].digest[:16] for name in folder.members(split).names}
        differences["more"] += len(now.keys() - before.keys())
        differences["fewer"] += len(before.keys() - now.keys())
        differences["with other content"] += sum(before.get(name, digest) != digest for name, digest in now.items())
        rescaled = rescaled or now == before
    changed = [f"{n:,} file(s) {what}" for what, n in differences.items() if n] + ["its values are scaled otherwise"] * rescaled
    if changed:
        yield f"it has changed since it was last used: {', '.join(changed)}; {so}"
    elif not any(_path(folder, split, data_dir).exists() for split in splits) and any(data_dir.glob("folder-hash-*.json")):
        taken = [name for split in splits for name in folder.members(split).names]
        others = sum(ending(name) not in _FIRST_ENDINGS or bool(folder.rule(name)) for name in taken)
        left_out = sum(n for (what, why), n in folder.passed_over.items() if why in (SYSTEM, SEEN) and what.endswith("/"))
        if others or left_out:
            yield (
                f"earlier versions treated {others:,} image(s) and {left_out:,} folder(s) of it otherwise, that is, took, "
                f"scaled or left them out: if it was used by one, {so}"
            )
