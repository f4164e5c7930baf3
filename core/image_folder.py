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
from core.folder_scaling import FolderScaling
from core.image_decoding import Scale

_SHOWN = 6  # kinds of files that were passed over for one reason


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
    def scaling(self) -> FolderScaling:
        """How the images are scaled; those of the classes decide, where there are none, all."""
        parts = self.tree.parts.values()
        files = [file for part in parts for file in (part.class_files() if self.is_data_set else part.files())]
        return FolderScaling([self.facts[file.name] for file in files])

    def scale_of(self, name: str) -> Scale:
        """How an image is scaled."""
        return self.scaling.of(self.facts[name])

    def rule(self, name: str) -> str:
        """The name of an image's scaling, see :meth:`FolderScaling.rule`."""
        return self.scaling.rule(self.facts[name])

    def fault(self, name: str) -> str:
        """Why an image cannot be taken, as far as that is known before it is decoded; else nothing."""
        return self.facts[name].broken or self.scaling.fault(self.facts[name])

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
