"""TrialConfig: everything that defines one trial, and the key under which its outcome is kept.

The field names are the names in YAML, in ``--set`` and as MLflow params. The defaults are the studies' setting on CIFAR-10;
:data:`PROFILES` says what other settings change. This module loads no torch, so a plan is made in a moment.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.datasets import describe_datasets, is_dataset, normal_name
from core.errors import InputError
from core.field_types import Number, Positive, Share, TrueOrFalse, Weight, Whole, one_of
from core.image_decoding import IMAGE_SIZE
from core.messages import Fault, Place, faults_of, shown
from core.models import ENCODERS
from core.pairing import PAIRINGS

if TYPE_CHECKING:
    from core.datasets import Splits

#: Raised whenever the same config would train to different weights; tests/core/test_semantics.py fails when someone forgets.
TRAINING_SEMANTICS = 1

#: How the terms of core/loss.py are made; a tag of every run.
LOSS_CONVENTION = "paper: s mean over dimensions, v(Z) + v(Z'), c(Z) + c(Z')"

#: Numbers in an image.
IMAGE_PIXELS = 3 * IMAGE_SIZE**2

#: Upper limits, far above what anybody trains with: a slip of the hand is told at once, not after seconds of planning.
MAX_EPOCHS, MAX_WIDTH, MAX_NEIGHBORS, MAX_SEED = 10_000, 65_536, 10_000, 2**32 - 1
#: The longest name of a data set; MLflow takes no longer ones.
_MAX_NAME = 400


#: Data set, number of train images (None: all), seed of the split (None: the fixed one).
ImagesKey = tuple[str, int | None, int | None]


def _dataset(*, anomalies: bool) -> AfterValidator:
    def check(name: str) -> str:
        if not is_dataset(name, anomalies=anomalies):
            raise ValueError(f"{shown(name)} is not one of {describe_datasets(anomalies=anomalies)}")
        if any(len(os.fsencode(part)) > 255 for part in name.removeprefix("folder:").split("/")):
            raise ValueError(f"{shown(name)} holds a name of more than 255 bytes, which no file system takes")
        return normal_name(name)

    return AfterValidator(check)


_ENCODER = ("encoder", "representation_dim", "seed")
_TRAINING = ("epochs", "batch_size", "optimizer", "learning_rate", "weight_decay", "schedule", "warmup_epochs", "precision")
_VICREG = ("mu", "lambda", "nu", "gamma", "epsilon", "pairing", "projector_dims", "joint_forward")


@dataclass(frozen=True)
class Method:
    """What makes a representation.

    Attributes:
        fields: the config fields that matter to it, beside the data's and, where views are augmented, the augmentation.
        meaning: one line for help and reports.
    """

    fields: tuple[str, ...]
    meaning: str

    @property
    def trained(self) -> bool:
        """Whether weights are trained, epoch by epoch."""
        return "epochs" in self.fields

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder, and with it a seed; other methods are the same for every seed."""
        return "encoder" in self.fields


METHODS: dict[str, Method] = {
    "vicreg": Method((*_ENCODER, *_TRAINING, *_VICREG), "an encoder trained with VICReg"),
    "supervised": Method((*_ENCODER, *_TRAINING), "the same encoder trained with the labels (cross-entropy)"),
    "untrained": Method(_ENCODER, "the same encoder with its initial weights"),
    "raw-pixels": Method((), "the pixels themselves"),
    "pca": Method(("representation_dim",), "principal components of the pixels"),
    "laplacian-eigenmaps": Method(
        ("representation_dim", "graph_neighbors"), "eigenvectors of the pixels' neighbourhood graph (Belkin & Niyogi 2003)"
    ),
}


class Augmentation(BaseModel):
    """The augmentation list, in its order: crop, flip, colour jitter, grey, blur. Setting an entry to 0 or null leaves it out.

    The defaults are the studies' list. Meanings and ranges are torchvision's (RandomResizedCrop, ColorJitter, GaussianBlur).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop: tuple[Share, Share] | None = Field((0.2, 1.0), description="range of the cropped share of the area; null: no crop")
    crop_ratio: tuple[Positive, Positive] = Field((3 / 4, 4 / 3), description="range of the crop's aspect ratio")
    flip: Share = Field(0.5, description="probability of a horizontal flip")
    jitter: Share = Field(1.0, description="probability that an image's colours are jittered at all")
    brightness: Weight = Field(0.4, description="factor from [max(0, 1 - b), 1 + b]")
    contrast: Weight = Field(0.4, description="factor from [max(0, 1 - c), 1 + c]")
    saturation: Weight = Field(0.2, description="factor from [max(0, 1 - s), 1 + s]")
    hue: Annotated[Number, Field(ge=0, le=0.5), AfterValidator(abs)] = Field(
        0.1, description="shift from [-h, h], in turns of the colour circle"
    )
    grey: Share = Field(0.2, description="probability of losing all colour")
    blur: tuple[Positive, Positive] | None = Field((0.1, 2.0), description="range of sigma of a 3x3 Gaussian; null: no blur")

    def outcome_fields(self) -> dict[str, Any]:
        """The entries that do something, as plain JSON values: no ratio without a crop, no strengths without jitter."""
        fields = self.model_dump(mode="json")
        idle = ["crop_ratio"] if self.crop is None else []
        idle += ["brightness", "contrast", "saturation", "hue"] if self.jitter == 0 else []
        return {name: value for name, value in fields.items() if name not in idle}

    @model_validator(mode="after")
    def _ranges_are_ordered(self) -> Self:
        errors = [
            f"{name}: {list(value)} is no range, its first number is the greater one"
            for name, value in (("crop", self.crop), ("crop_ratio", self.crop_ratio), ("blur", self.blur))
            if value is not None and value[0] > value[1]
        ]
        if self.crop is not None and self.crop[0] == 0:
            errors.append("crop: an area of 0 cannot be cropped")
        if errors:
            raise ValueError("; ".join(errors))
        return self


class TrialConfig(BaseModel):
    """All that defines one trial. Frozen; unknown keys are refused; :func:`make_config` reports all errors at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Annotated[str, one_of(METHODS)] = Field("vicreg", description="what makes the representation")

    lambda_: Weight = Field(25.0, alias="lambda", description="weight of the invariance term")
    mu: Weight = Field(25.0, description="weight of the variance term (both views summed, as in the paper)")
    nu: Weight = Field(1.0, description="weight of the covariance term (both views summed)")
    gamma: Positive = Field(1.0, description="target of the standard deviation in the variance term")
    epsilon: Positive = Field(1e-4, description="added to the variance inside the root")

    pairing: Annotated[str, one_of(PAIRINGS)] = Field("augment", description="how the two views of an image are made")
    neighbors_k: Whole = Field(3, ge=1, le=MAX_NEIGHBORS, description="neighbours among which a partner is drawn")
    pair_purity: Share = Field(1.0, description="share of `class` pairs that are truly of one class")
    parent: TrialConfig | None = Field(None, description="the trial whose representation defines the neighbours")

    encoder: Annotated[str, one_of(ENCODERS)] = Field("resnet18", description="the encoder's architecture")
    representation_dim: Whole = Field(128, ge=1, le=MAX_WIDTH, description="dimensions of the encoder's output")
    projector_dims: tuple[Annotated[Whole, Field(ge=1, le=MAX_WIDTH)], ...] = Field(
        (512, 512, 512), max_length=20, description="widths of the projector's layers; []: no projector"
    )

    graph_neighbors: Whole = Field(
        10, ge=1, le=MAX_NEIGHBORS, description="neighbours of an image in the graph of laplacian-eigenmaps"
    )

    dataset: Annotated[str, Field(max_length=_MAX_NAME), _dataset(anomalies=False)] = Field(
        "cifar10", description="images to train and test on"
    )
    anomaly_datasets: tuple[Annotated[str, Field(max_length=_MAX_NAME), _dataset(anomalies=True)], ...] = Field(
        ("mnist",), max_length=100, description="images to tell from the test images; first: the headline"
    )
    train_subset: Whole | None = Field(None, ge=2, le=10**9, description="so many train images, class-balanced; see split")
    split: Literal["fixed", "seed"] = Field(
        "fixed",
        description="train subset and images held out for validation: the same for every seed, or drawn with it",
    )

    augmentation: Augmentation = Field(default_factory=Augmentation, description="the list of augmentations")
    epochs: Whole = Field(30, ge=1, le=MAX_EPOCHS, description="passes over the train images")
    batch_size: Whole = Field(256, ge=2, le=10**6, description="images a step; incomplete batches are dropped")
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="sgd has momentum 0.9")
    learning_rate: Positive = Field(3e-4, description="the peak of the schedule")
    weight_decay: Weight = Field(1e-6, description="as the optimiser of that name defines it")
    schedule: Literal["constant", "cosine"] = Field("constant", description="learning rate over time, after the warm-up")
    warmup_epochs: Weight = Field(0.0, description="epochs of linear warm-up")
    joint_forward: TrueOrFalse = Field(False, description="both views in one forward: faster, but batch-norm sees both at once")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where it pays, see resolve_precision")
    threads: Whole = Field(2, ge=1, le=1024, description="CPU threads of a trial (recorded, not part of its key)")
    seed: Whole = Field(0, ge=0, le=MAX_SEED, description="initial weights, order of the images, draws")

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        errors = []
        if len(set(self.anomaly_datasets)) != len(self.anomaly_datasets):
            errors.append("anomaly_datasets: a set is named twice")
        if self.parent is not None and not METHODS[self.parent.method].has_encoder:
            errors.append(
                f"parent: {self.parent.method} has no encoder; for neighbours of the pixels use pairing: pixel-neighbors"
            )
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            errors.append(f"warmup_epochs: {self.warmup_epochs} leaves nothing of {self.epochs} epochs")
        if errors:
            raise ValueError("\n".join(errors))
        return self

    def fields(self) -> dict[str, Any]:
        """Every field under its public name, as plain JSON values; ``parent`` as a nested mapping or None."""
        return self.model_dump(mode="json", by_alias=True)

    def outcome_fields(self) -> dict[str, Any]:
        """The fields that determine what training yields: those that do not apply to the method or the pairing are left out.

        Never among them: ``threads`` (recorded only), ``anomaly_datasets`` (part of what is evaluated), ``parent`` (its key
        stands for it in :func:`trial_key`).
        """
        everything = self.fields()
        chosen = {"method", "dataset", "train_subset", *METHODS[self.method].fields}
        if self.split == "seed":
            chosen |= {"split", "seed"}
        augmented = self.trained
        if self.method == "vicreg":
            pairing = PAIRINGS[self.pairing]
            chosen |= set(pairing.fields)
            augmented = pairing.augmented
        if augmented:
            chosen.add("augmentation")
            everything["augmentation"] = self.augmentation.outcome_fields()
        return {name: everything[name] for name in sorted(chosen)}

    @property
    def needs_parent(self) -> bool:
        """Whether this trial's pairs are defined by another trial's representation."""
        return self.method == "vicreg" and PAIRINGS[self.pairing].table == "parent"

    @property
    def trained(self) -> bool:
        """Whether this trial trains anything."""
        return METHODS[self.method].trained

    @property
    def has_encoder(self) -> bool:
        """Whether this trial has an encoder."""
        return METHODS[self.method].has_encoder

    @property
    def has_seed(self) -> bool:
        """Whether this trial depends on the seed: by an encoder's weights, or by the images that it is given."""
        return self.has_encoder or self.split == "seed"

    @property
    def images_key(self) -> ImagesKey:
        """What identifies the trial's train, validation and test images: data set, train subset, seed of the split."""
        return self.dataset, self.train_subset, self.seed if self.split == "seed" else None

    def replace(self, **changes: Any) -> TrialConfig:
        """A validated copy with some fields changed (``lambda_`` for lambda)."""
        fields = self.fields()
        fields.update({name.rstrip("_"): value for name, value in changes.items()})
        return make_config(fields)


#: What a profile changes of the defaults above.
PROFILES: dict[str, dict[str, Any]] = {
    "cifar10": {},
    "digits-m": {
        "dataset": "digits-m",
        "anomaly_datasets": ["digits-m-patches", "digits-m-black"],
        "encoder": "small",
        "representation_dim": 64,
        "projector_dims": [256, 256, 256],
        "epochs": 15,
        "learning_rate": 2e-3,
        # A mirrored digit is another sign, and a tenth of a digit is none.
        "augmentation": {"crop": [0.4, 1.0], "flip": 0.0},
        "threads": 1,
    },
}


def make_config(fields: Mapping[str, Any], where: str = "") -> TrialConfig:
    """Validates plain values, e.g. from YAML.

    Raises:
        InputError: with one line for every error, which names the key, the value and the choices, after ``where``.
    """
    try:
        return TrialConfig.model_validate(dict(fields))
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise InputError([prefix + line for fault in faults_of(error) for line in fault.lines(keys_at)]) from None


def field_faults(fields: Mapping[str, Any]) -> list[Fault]:
    """The faults of single fields, wherever they are laid over: without those of fields that do not go together."""
    try:
        TrialConfig.model_validate(dict(fields))
    except ValidationError as error:
        return [f for f in faults_of(error) if f.unknown or set(f.place) - {"parent"} or not _is_mapping_at(fields, f.place)]
    return []


def _is_mapping_at(fields: Any, place: Place) -> bool:
    for key in place:
        if not isinstance(fields, Mapping):
            return False
        fields = fields.get(key)
    return isinstance(fields, Mapping)


def keys_at(place: Place) -> list[str]:
    """The keys that are possible where a config has an unknown one."""
    model = Augmentation if "augmentation" in place[:-1] else TrialConfig
    return [field.alias or name for name, field in model.model_fields.items()]


def resolve_precision(config: TrialConfig, *, gpu: bool, cpu_flags: frozenset[str]) -> TrialConfig:
    """Replaces ``precision: auto`` by what pays, here and in the parent.

    bf16 on a GPU; on a CPU only for encoders whose convolutions are large enough (measured, see docs/benchmarks.md) and
    only where the processor has bf16 matrix units, since it is emulated elsewhere.
    """
    bf16 = gpu or (ENCODERS[config.encoder].bf16_pays_on_cpu and "amx_bf16" in cpu_flags)
    changes: dict[str, Any] = {}
    if config.precision == "auto":
        changes["precision"] = "bf16" if bf16 else "fp32"
    if config.parent is not None:
        changes["parent"] = resolve_precision(config.parent, gpu=gpu, cpu_flags=cpu_flags).fields()
    return config.replace(**changes) if changes else config


def check_sizes(config: TrialConfig, splits: Splits) -> None:
    """Raises InputError where there are too few images for the probe's validation, a batch, or the neighbours."""
    errors = []
    if len(splits.validation) == 0:
        errors.append(f"{config.dataset}: no class has two train images, so none can be held out as validation")
    held_out = " (a tenth is held out)"
    for name, n in (("train", len(splits.train)), ("test", len(splits.test))):
        images = f"the {n} {name} images of {config.dataset}{held_out if name == 'train' else ''}"
        if config.trained and n < config.batch_size:
            errors.append(f"batch_size: {config.batch_size} is more than {images}")
        if config.method == "vicreg" and PAIRINGS[config.pairing].table and n <= config.neighbors_k:
            errors.append(f"neighbors_k: {config.neighbors_k} needs more than {images}")
        if name == "train" and config.method == "laplacian-eigenmaps" and n <= config.graph_neighbors:
            errors.append(f"graph_neighbors: {config.graph_neighbors} needs more than {images}")
        if name == "train" and config.method in ("laplacian-eigenmaps", "pca") and n < config.representation_dim + 2:
            errors.append(f"representation_dim: {config.representation_dim} for {config.method} needs more than {images}")
    if config.method == "pca" and config.representation_dim > IMAGE_PIXELS:
        errors.append(f"representation_dim: {config.representation_dim} for pca is more than the {IMAGE_PIXELS} pixels")
    if errors:
        raise InputError(errors)


def trial_key(config: TrialConfig, identities: Mapping[str, str]) -> str:
    """The address of a trial's outcome: a hash of everything that determines it.

    Args:
        config: with a resolved precision.
        identities: data set name -> identity of its content (:func:`core.datasets.identify`).
    """
    return digest(_key_content(config, identities))


def keys_at_epochs(config: TrialConfig, identities: Mapping[str, str], epochs: Iterable[int]) -> list[tuple[int, str]]:
    """The keys of a trained config at other numbers of epochs, as (epochs, key): thousands in a moment."""
    mark = "epochs go here"
    before, after = _canonical(_key_content(config, identities) | {"epochs": mark}).split(f'"{mark}"')
    return [(n, _hash(f"{before}{n}{after}")) for n in epochs]


def _key_content(config: TrialConfig, identities: Mapping[str, str]) -> dict[str, Any]:
    assert not config.trained or config.precision != "auto", "the key needs the resolved precision"
    content = config.outcome_fields()
    content["dataset"] = identities[config.dataset]
    content["semantics"] = TRAINING_SEMANTICS
    if config.needs_parent:
        assert config.parent is not None, "a trial whose pairs need a parent has none"
        content["parent"] = trial_key(config.parent, identities)
    return content


def digest(content: Any) -> str:
    """80 bits of SHA-256 of the canonical JSON."""
    return _hash(_canonical(content))


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:20]
