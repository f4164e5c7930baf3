"""From a grid to trials: what to train, what depends on what, and how each arm differs from base.

Later lies over earlier: profile, the grid's ``base``, the arm, ``--set``. Nothing here loads torch, ray or mlflow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.config import PROFILES, TrialConfig, digest, make_config, resolve_precision, trial_key
from core.datasets import identify
from core.errors import InputError
from core.pairing import PAIRINGS
from evaluation.details import detail_ids
from evaluation.evaluate import metric_ids
from evaluation.figures import figure_ids
from sweeps.grid import BASE, Fields, Grid, expand_arms, merge, select_arms, settings_faults

#: What a neighbour trial's parent takes from the trial itself; all else comes from the grid's base.
_FROM_CHILD = ("seed", "dataset", "train_subset", "encoder", "representation_dim", "precision", "threads")


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        key: the address of its outcome.
        config: validated, precision resolved.
        arm: the arm's name; for a trial that no arm asked for, what it is.
        aliases: further arms that come to the same trial.
        added_for: the arms for whose sake it was added, empty for a trial of the grid.
        parent: key of the trial whose encoder it needs.
        shorter: keys of trials that it could continue, as (epochs, key), the longest first.
        untrained: key of the untrained encoder of the same seed and data, to compare with.
        data: identity of its data set's content.
        anomalies: identity of each anomaly set's content, the headline first.
        differs: fields in which it differs from base, name -> (base's value, its own).
        choosing: whether a search is still choosing, so that only metrics that look at no test image may be had of it.
    """

    key: str
    config: TrialConfig
    arm: str
    aliases: tuple[str, ...]
    added_for: tuple[str, ...]
    parent: str | None
    shorter: tuple[tuple[int, str], ...]
    untrained: str | None
    data: str
    anomalies: Mapping[str, str]
    differs: Mapping[str, tuple[Any, Any]]
    choosing: bool = False

    @property
    def metric_ids(self) -> dict[str, str]:
        """What it is to be given: metric -> what identifies its computation."""
        return metric_ids(self.anomalies, choosing=self.choosing)

    @property
    def detail_ids(self) -> dict[str, str]:
        """Arrays of single images that it is to be given, likewise; none while a search is choosing."""
        return {} if self.choosing else detail_ids(self.anomalies)

    @property
    def figure_ids(self) -> dict[str, str]:
        """Figures that it is to be given, likewise."""
        return {} if self.choosing else figure_ids(self.title, self.anomalies)

    @property
    def title(self) -> str:
        """For people: the arm and, where it matters, the seed."""
        return f"{self.arm} · seed {self.config.seed}" if self.config.has_encoder else self.arm


@dataclass(frozen=True)
class Plan:
    """What one command is to achieve.

    Attributes:
        grid: the grid.
        profile: name of the profile.
        base: the base config, for the first seed.
        sweep: the sweep's identity: the grid's name and a hash of the base config.
        trials: by key, in the order of the arms: all arms of the grid, for all seeds that the sweep has ever had.
        wanted: the keys that this command asks for, parents included.
    """

    grid: Grid
    profile: str
    base: TrialConfig
    sweep: str
    trials: Mapping[str, Trial]
    wanted: frozenset[str]

    def extended(self, other: Plan) -> Plan:
        """This plan and what another plan of the same sweep has beyond it."""
        return replace(self, trials={**other.trials, **self.trials}, wanted=self.wanted | other.wanted)

    def waits_for(self, trial: Trial) -> tuple[str, ...]:
        """Keys of the plan's trials that must be over before this one starts: its parent, and what it continues."""
        continued = next((key for _, key in trial.shorter if key in self.trials), None)
        return tuple(key for key in (trial.parent, continued) if key is not None and key in self.trials)


@dataclass
class _Draft:
    """A trial while the plan is made."""

    config: TrialConfig
    arms: list[str] = field(default_factory=list)
    added_for: list[str] = field(default_factory=list)


def make_plan(
    grid: Grid,
    profile: str,
    *,
    settings: Fields,
    seeds: Sequence[int],
    arms: Sequence[str] | None,
    choosing: Collection[str] = (),
    data_dir: Path,
    gpu: bool,
    cpu_flags: frozenset[str],
    earlier_seeds: Callable[[str], Sequence[int]] = lambda _: (),
) -> Plan:
    """Expands a grid.

    Args:
        grid: the grid.
        profile: a key of PROFILES.
        settings: ``--set``, parsed.
        seeds: at least one.
        arms: names of the arms wanted; None: all.
        choosing: names of the arms of a search that only validation may be looked at for.
        data_dir: where data sets and the hashes of folders are kept.
        gpu: whether the trials run on GPUs (resolves ``precision: auto``).
        cpu_flags: the processor's features (likewise).
        earlier_seeds: a sweep's identity -> seeds of earlier commands, which belong to the sweep though not to this command.

    Raises:
        InputError: with every fault of the configs and the data sets.
    """
    everything = expand_arms(grid)
    faults = settings_faults(grid, everything, settings)
    chosen = everything
    try:
        chosen = everything if arms is None else select_arms(everything, arms)
    except InputError as error:
        faults += error.faults

    def laid_over(own: Fields, seed: int) -> Fields:
        return merge(merge(merge(PROFILES[profile], grid.base), own), settings) | {"seed": seed}

    base_fields = laid_over({}, seeds[0])
    try:
        base = _with_parent(laid_over(everything[BASE], seeds[0]), base_fields, f"grid {grid.name}, arm {BASE}")
    except InputError as error:
        # Every arm would report base's faults again; of the arms only what they say themselves is looked at.
        raise InputError(list(dict.fromkeys([*faults, *error.faults, *_arm_faults(everything)]))) from None
    base = resolve_precision(base, gpu=gpu, cpu_flags=cpu_flags)
    identity = _identity(base.fields()) | ({} if grid.search is None else {"search": grid.search.identity})
    sweep = f"{grid.name}-{digest(identity)[:8]}"

    configs: list[tuple[str, TrialConfig]] = []
    for name, own in everything.items():
        for seed in dict.fromkeys((*seeds, *earlier_seeds(sweep))):
            try:
                config = _with_parent(laid_over(own, seed), base_fields, f"grid {grid.name}, arm {name}")
                configs.append((name, resolve_precision(config, gpu=gpu, cpu_flags=cpu_flags)))
            except InputError as error:
                faults += error.faults
    if faults:
        raise InputError(list(dict.fromkeys(faults)))

    identities, anomaly_identities = _identify([config for _, config in configs], data_dir)
    drafts: dict[str, _Draft] = {}
    wanted: list[str] = []
    for name, config in configs:
        key = trial_key(config, identities)
        draft = drafts.setdefault(key, _Draft(config))
        for setting in ("anomaly_datasets", "threads"):
            if getattr(draft.config, setting) != getattr(config, setting):
                faults.append(
                    f"grid {grid.name}: arms {draft.arms[0]} and {name} train the same, and differ in {setting} alone: "
                    "set it for all, in base or with --set"
                )
        draft.arms += [name] if name not in draft.arms else []
        if name in chosen and config.seed in seeds:
            wanted.append(key)
    if faults:
        raise InputError(list(dict.fromkeys(faults)))
    _add_parents(drafts, identities)
    waiting = list(wanted)
    while waiting:
        config = drafts[waiting.pop()].config
        if config.needs_parent and config.parent is not None:
            wanted.append(trial_key(config.parent, identities))
            waiting.append(wanted[-1])
    trials = {
        key: _finish(key, draft, base, identities, anomaly_identities, frozenset(choosing)) for key, draft in drafts.items()
    }
    return Plan(grid, profile, base, sweep, trials, frozenset(wanted))


def _arm_faults(arms: Mapping[str, Fields]) -> list[str]:
    """Faults of the arms' own fields, where base is unsound itself."""
    faults: list[str] = []
    for name, own in arms.items():
        try:
            make_config({key: value for key, value in own.items() if key != "parent"}, f"arm {name}")
        except InputError as error:
            faults += error.faults
    return faults


def _identity(fields: Fields) -> Fields:
    """What identifies a sweep: the fields of base and of its parents that are not the defaults, but neither seed nor threads.

    So a field that is added to the config later leaves the sweeps of before what they were. Of the anomaly sets the headline
    alone counts: a further one extends a sweep.
    """
    defaults = TrialConfig().fields()
    fields = fields | {"anomaly_datasets": fields["anomaly_datasets"][:1]}
    changed = {key: value for key, value in fields.items() if value != defaults[key] and key not in ("seed", "threads")}
    return changed | ({} if fields["parent"] is None else {"parent": _identity(fields["parent"])})


def _add_parents(drafts: dict[str, _Draft], identities: Mapping[str, str]) -> None:
    """Adds the parents that no arm comes to, and the parents of those; says for which arms."""
    waiting = [(draft.arms[0], draft.config) for draft in drafts.values()]
    while waiting:
        name, config = waiting.pop(0)
        if config.needs_parent and config.parent is not None:
            draft = drafts.setdefault(trial_key(config.parent, identities), _Draft(config.parent))
            if not draft.arms and name not in draft.added_for:
                draft.added_for.append(name)
                waiting.append((name, config.parent))


def _with_parent(fields: Fields, base_fields: Fields, where: str, depth: int = 0) -> TrialConfig:
    """Validates a trial's fields after replacing the overrides under ``parent`` by the parent's whole config."""
    overrides = fields.get("parent") or {}
    if not isinstance(overrides, Mapping):
        raise InputError(f"{where}: parent: a mapping of fields that override base's is needed, not {overrides!r}")
    config = make_config({key: value for key, value in fields.items() if key != "parent"}, where)
    if not config.needs_parent:
        if overrides and config.method == "vicreg":
            raise InputError(f"{where}: parent: pairing {config.pairing!r} needs no parent")
        return config
    inherited = {key: fields[key] for key in _FROM_CHILD if key in fields}
    parent_fields = merge(base_fields | inherited, {key: value for key, value in overrides.items() if key != "parent"})
    parent_fields.pop("parent", None)
    if "parent" in overrides:
        parent_fields["parent"] = overrides["parent"]
    at = f"{where}, its parent"
    of_base = PAIRINGS.get(str(base_fields.get("pairing")))
    if depth > 0 and not overrides and of_base is not None and of_base.table == "parent":
        raise InputError(
            f"{at}: base's own pairing is {config.pairing!r}, which needs a parent without end; "
            "say where it begins, e.g. parent: {pairing: augment}"
        )
    parent = _with_parent(parent_fields, base_fields, at, depth + 1)
    return make_config(config.fields() | {"parent": parent.fields()}, where)


def _identify(configs: Collection[TrialConfig], data_dir: Path) -> tuple[dict[str, str], dict[str, str]]:
    names: set[str] = set()
    anomalies: set[str] = set()
    for config in configs:
        anomalies.update(config.anomaly_datasets)
        link: TrialConfig | None = config
        while link is not None:
            names.add(link.dataset)
            link = link.parent
    faults: list[str] = []
    identities: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for found, wanted, as_anomalies in ((identities[0], names, False), (identities[1], anomalies, True)):
        for name in sorted(wanted):
            try:
                found[name] = identify(name, data_dir, anomalies=as_anomalies)
            except InputError as error:
                faults += error.faults
    if faults:
        raise InputError(faults)
    return identities


def _finish(
    key: str,
    draft: _Draft,
    base: TrialConfig,
    identities: Mapping[str, str],
    anomaly_identities: Mapping[str, str],
    choosing: frozenset[str],
) -> Trial:
    config = draft.config
    shorter: list[tuple[int, str]] = []
    if config.trained and config.schedule == "constant":
        shorter = [(n, trial_key(config.replace(epochs=n), identities)) for n in range(config.epochs - 1, 0, -1)
                   if n > config.warmup_epochs or config.warmup_epochs == 0]  # fmt: skip
    parent = trial_key(config.parent, identities) if config.needs_parent and config.parent else None
    untrained = trial_key(config.replace(method="untrained", parent=None), identities) if config.trained else None
    own, theirs = config.outcome_fields(), base.outcome_fields()
    # Of another method all but the data differs; that it is another method says it.
    names = [name for name in (own | theirs if config.method == base.method else own) if own.get(name) != theirs.get(name)]
    differs = {name: (theirs.get(name), own.get(name)) for name in names if name != "seed"}
    if config.needs_parent and config.parent is not None:
        of_parent = config.parent.outcome_fields()
        changed = {name: value for name, value in of_parent.items() if value != theirs.get(name) and name not in _FROM_CHILD}
        if changed:
            differs["parent"] = (None, changed)
    return Trial(
        key=key,
        config=config,
        arm=draft.arms[0] if draft.arms else f"parent of {', '.join(draft.added_for)}",
        aliases=tuple(draft.arms[1:]),
        added_for=() if draft.arms else tuple(draft.added_for),
        parent=parent,
        shorter=tuple(shorter),
        untrained=untrained,
        data=identities[config.dataset],
        anomalies={name: anomaly_identities[name] for name in config.anomaly_datasets if name in anomaly_identities},
        differs=differs,
        choosing=bool(choosing) and choosing.issuperset(draft.arms or draft.added_for),
    )
