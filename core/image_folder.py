"""A folder of images as it lies on the disk: which images belong to which class, how they are scaled, what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.folder_files import FileFacts, examine
from core.folder_listing import File, Part, Tree, class_name, ending, list_folder, printable
from core.image_decoding import Scale

#: The depths that grey values in files of 16 or 32 bits are taken to have: the smallest that holds all of a folder.
DEPTHS = (8, 10, 12, 14, *range(16, 33))
#: By this share of their range floating-point values may exceed it, as resampling makes them; they are clipped.
_OVERSHOOT = 0.05
_SHOWN = 6  # kinds of files that were passed over for one reason
_LEAST_OF_255 = 16.0  # values of 0 .. 255 reach this somewhere in a folder
_LEAST_COLOUR = 16.0  # of 255: where no colour of a folder reaches it, at most 12 of 16 bits are used
_DARK_COLOUR = 128.0  # and here at most 15, or the images are dark


@dataclass(frozen=True)
class Members:
    """The images of a split.

    Attributes:
        names: their paths below the folder.
        labels: [N] int64, indices into classes.
        classes: the classes' names.
    """

    names: list[str]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class ImageFolder:
    """A folder's files and what each is.

    Attributes:
        tree: the files.
        facts: what each is, by name.
    """

    tree: Tree
    facts: Mapping[str, FileFacts]

    @classmethod
    def read(cls, root: Path, data_dir: Path) -> ImageFolder:
        """Lists a folder and examines what is not known yet.

        Raises:
            InputError: if the folder is missing, or something in it cannot be read.
        """
        tree = list_folder(root)
        files = [file for part in tree.parts.values() for file in part.files()]
        return cls(tree, examine(root, files, data_dir))

    @property
    def title(self) -> str:
        """The folder's name as a data set."""
        return f"folder:{printable(str(self.tree.root))}"

    @property
    def is_data_set(self) -> bool:
        """Whether it has ``train/`` and ``test/``."""
        return len(self.tree.layout) == 2

    @cached_property
    def scale(self) -> Scale:
        """How values of more than 8 bits become bytes: one rule for the whole folder, so that its images stay comparable.

        A file does not say how many of its 16 bits are used (TIFF's tags of the largest sample must not change how an image
        looks, says its standard), and single images may be dark; so all of a folder decide.
        """
        top = max((f.high for f in self._deciding if f.values == "integers" and not f.bits), default=0.0)
        bits = next((bits for bits in DEPTHS if top < 2**bits), DEPTHS[-1]) if top > 0 else 16
        return Scale(bits, 1 if self._top_float <= 1 + _OVERSHOOT else 255)

    @cached_property
    def _deciding(self) -> list[FileFacts]:
        """What decides how a folder is scaled: the images of its classes; where there are none, all images."""
        files = [
            file for part in self.tree.parts.values() for file in (part.class_files() if self.is_data_set else part.files())
        ]
        return [self.facts[file.name] for file in files]

    @cached_property
    def scaled_from(self) -> dict[str, str]:
        """Kind of values of more than 8 bits -> the range that its images are scaled from, as far as the folder decides it."""
        kinds = {facts.values for facts in self._deciding if not facts.bits}
        ranges = {
            "grey values": ("integers", 2**self.scale.bits - 1),
            "floating-point values": ("floats", self.scale.float_top),
        }
        return {name: f"0..{top}" for name, (kind, top) in ranges.items() if kind in kinds}

    def scale_of(self, name: str) -> Scale:
        """How one image is scaled: by the bits that it declares, else as the folder."""
        bits = self.facts[name].bits
        return Scale(bits, self.scale.float_top) if bits else self.scale

    def rule(self, name: str) -> str:
        """The name of an image's scaling, where it is none of the first version's; it is a part of the folder's identity."""
        facts = self.facts[name]
        if facts.values == "integers" and self.scale_of(name).bits != 16:
            return f"integers of {self.scale_of(name).bits} bits"
        return "floats to 255" if facts.values == "floats" and self.scale.float_top != 1 else ""

    def fault(self, name: str) -> str:
        """Why an image cannot be taken, as far as that is known before it is decoded; else nothing."""
        facts = self.facts[name]
        low, high, top = facts.low, facts.high, self.scale.float_top
        if facts.broken:
            return facts.broken
        if facts.values == "integers" and low < 0:
            return f"negative values, {low:.0f} to {high:.0f}: shift them to 0 and above"
        if facts.values == "floats":
            if not np.isfinite(high):
                return "floating-point values that are not finite"
            too_small = top == 255 and 1 + _OVERSHOOT < high < _LEAST_OF_255 and self._top_float < _LEAST_OF_255
            if too_small or not (-_OVERSHOOT * top <= low and high <= (1 + _OVERSHOOT) * top):
                return f"floating-point values from {low:.4g} to {high:.4g}: scale them to 0..1 or 0..255"
        if facts.values == "colours" and self._top_colour < _LEAST_COLOUR:
            return "colours of 16 bits that use 12 or fewer: scale them to all 16, or to 8"
        return ""

    @cached_property
    def _top_float(self) -> float:
        return max((f.high for f in self._deciding if f.values == "floats" and np.isfinite(f.high)), default=0.0)

    @cached_property
    def _top_colour(self) -> float:
        return max((f.high for f in self._deciding if f.values == "colours"), default=255.0)

    @cached_property
    def dark(self) -> dict[str, list[str]]:
        """Images that become much darker than they may be meant: why -> their names."""
        found: dict[str, list[str]] = {}
        for name, facts in self.facts.items():
            if facts.values == "floats" and self.scale.float_top == 255 and 0 < facts.high <= 1 + _OVERSHOOT:
                found.setdefault("their floating-point values end at 1, others of the folder at 255", []).append(name)
            if facts.values == "colours" and _LEAST_COLOUR <= self._top_colour < _DARK_COLOUR:
                found.setdefault("no colour of 16 bits is larger than half: they may use fewer bits", []).append(name)
        return found

    @cached_property
    def passed_over(self) -> Counter[tuple[str, str]]:
        """(what, why) -> how many files or folders were not taken."""
        found = Counter(self.tree.passed_over)
        for name, facts in self.facts.items():
            if facts.passed_over:
                found[ending(name) or "without ending", facts.passed_over] += 1
        if self.is_data_set:
            for name, part in self.tree.parts.items():
                for file in self._images(part.loose):
                    found[ending(file) or "without ending", f"in {name}/, but in no class folder"] += 1
        return found

    def passed_over_text(self) -> str:
        """What was passed over, by reason; empty if nothing was."""
        reasons: dict[str, list[tuple[str, int]]] = {}
        for (what, why), n in self.passed_over.most_common():
            reasons.setdefault(why, []).append((what, n))
        return "; ".join(f"{_counted(counts)} ({why})" for why, counts in reasons.items())

    def members(self, split: str) -> Members:
        """The images of ``train``, ``test`` or ``anomalies``.

        Raises:
            InputError: if the folder is not laid out as a data set.
        """
        if split == "anomalies":
            base = "test/" if "test" in self.tree.layout else ""
            names = self._images(self.tree.parts[base.rstrip("/")].sorted_files())
            if not names:
                raise InputError(f"{self.title}: no images below {base or 'it'}{self._instead()}")
            return Members(names, np.zeros(len(names), dtype=np.int64), (class_name(self.tree.root.name),))
        folders = self._class_folders()
        names, labels = [], []
        for label, of_class in enumerate(folders["train"]):
            folder = folders[split].get(of_class)
            found = [] if folder is None else self._images(self.tree.parts[split].classes[folder])
            if not found and split == "train":
                raise InputError(f"{self.title}: no images in train/{of_class}{self._instead()}")
            names += found
            labels += [label] * len(found)
        if not names:
            raise InputError(f"{self.title}: no images below {split}/{self._instead()}")
        return Members(names, np.asarray(labels, dtype=np.int64), tuple(folders["train"]))

    def splits(self, *, anomalies: bool) -> list[str]:
        """The splits that count: of a set of anomalies ``train`` too if it has class folders, for a search looks at those."""
        if not anomalies:
            return ["train", "test"]
        return ["anomalies", "train"] if self.has_train else ["anomalies"]

    @cached_property
    def has_train(self) -> bool:
        """Whether there are train images."""
        try:
            return bool(self.members("train").names)
        except InputError:
            return False

    def identity(self, split: str) -> str:
        """A hash over the names and bytes of a split's images, and over how those are scaled that a new rule scales.

        Raises:
            InputError: as :meth:`members`.
        """
        content = hashlib.sha256()
        for name in self.members(split).names:
            content.update(os.fsencode(name) + b"\0" + bytes.fromhex(self.facts[name].digest))
            if rule := self.rule(name):
                content.update(f"\0{rule}\n".encode())
        return content.hexdigest()[:20]

    def _images(self, files: list[File]) -> list[str]:
        return [file.name for file in files if not self.facts[file.name].passed_over]

    def _class_folders(self) -> dict[str, dict[str, str]]:
        """For ``train`` and ``test``: class -> the name of its folder, in the order of the labels."""
        errors = [f"{self.title}: {name}/ is missing (a data set has class folders below train/ and test/)"
                  for name in ("train", "test") if name not in self.tree.layout]  # fmt: skip
        if errors:
            raise InputError(errors)
        found: dict[str, dict[str, str]] = {}
        for name, part in self.tree.parts.items():
            errors += self._name_errors(name, part)
            found[name] = {class_name(folder): folder for folder in part.classes}
        if errors:
            raise InputError(errors)
        if len(found["train"]) < 2:
            names = ", ".join(found["train"]) or "none"
            raise InputError(f"{self.title}: at least two class folders are needed below train/, found {names}")
        strangers = sorted(set(found["test"]) - set(found["train"]))
        if strangers:
            raise InputError(f"{self.title}: classes of test/ that train/ lacks: {', '.join(strangers)}")
        if not found["test"]:
            raise InputError(f"{self.title}: no class folders below test/")
        return found

    def _name_errors(self, name: str, part: Part) -> list[str]:
        errors = [
            f"{self.title}: {name}/{printable(a)} and {name}/{printable(b)} are one folder, by a link: an image has one label"
            for a, b in part.twins
        ]
        firsts: dict[str, str] = {}
        for folder in part.classes:
            first = firsts.setdefault(class_name(folder), folder)
            if first != folder:
                errors.append(
                    f"{self.title}: {name}/ has the class {class_name(folder)} twice, in two Unicode forms of one name "
                    f"({first!a} and {folder!a}): put their images into one folder"
                )
        return errors

    def _instead(self) -> str:
        text = self.passed_over_text()
        return f" (passed over: {text})" if text else ""


def _counted(counts: list[tuple[str, int]]) -> str:
    shown = ", ".join(f"{n:,} {what}" for what, n in counts[:_SHOWN])
    return shown + (f", {sum(n for _, n in counts[_SHOWN:]):,} others" if counts[_SHOWN:] else "")
