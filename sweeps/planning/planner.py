"""Expands a grid into trials: what to train, which trials depend on which, and how each arm differs from base.

Fields are set in this order, later ones override earlier ones: profile, the grid's ``base``, the arm, ``--set``. This module
loads neither torch nor ray nor mlflow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import PROFILES, TrialConfig, digest, keys_at_epochs, make_config, resolve_precision, trial_key
from core.datasets import identify_and_count
from core.errors import InputError
from core.messages import as_typed, listed, shown
from core.pairing import PAIRINGS
from sweeps.planning.arm_names import MAX_NAME, folded, with_digest
from sweeps.planning.arms import expand_arms, select_arms, settings_errors
from sweeps.planning.factorial import arm_name
from sweeps.planning.fields import leaves, merge
from sweeps.planning.grid import BASE, MAX_TRIALS, PARENT_OF, Fields, Grid
from sweeps.planning.trial import Plan, Trial

#: Fields that a neighbour trial's parent takes from the trial itself; all others come from the grid's base.
_FROM_CHILD = ("seed", "dataset", "train_subset", "split", "encoder", "representation_dim", "precision", "threads")

#: The most epochs of all trials together: each may be continued from every shorter one, which is looked for.
_MAX_EPOCHS = 2_000_000


def _no_seeds(sweep_id: str) -> Sequence[int]:
    return ()


@dataclass
class _Draft:
    """A trial, while the plan is being made."""

    config: TrialConfig
    arms: list[str] = field(default_factory=list)
    required_by: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Identities:
    """Identities of the data sets' content, by name: of those that trials train on, and of the anomaly sets."""

    datasets: dict[str, str]
    anomalies: dict[str, str]
    train_images: dict[str, int]


@dataclass(frozen=True)
class Planner:
    """Makes the plans of one command.

    Attributes:
        profile: a key of PROFILES.
        settings: ``--set``, parsed.
        data_dir: where data sets and the hashes of folders are kept.
        gpu: whether the trials run on GPUs (resolves ``precision: auto``).
        cpu_flags: the processor's features (likewise).
        earlier_seeds: sweep id -> seeds of earlier commands; the plan includes their trials, but does not request them.
    """

    profile: str
    settings: Fields
    data_dir: Path
    gpu: bool
    cpu_flags: frozenset[str]
    earlier_seeds: Callable[[str], Sequence[int]] = _no_seeds
    _identified: dict[tuple[str, bool], tuple[str, int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def plan(
        self, grid: Grid, *, seeds: Sequence[int], arms: Sequence[str] | None = None, validation_only: Collection[str] = ()
    ) -> Plan:  # fmt: skip
        """Expand a grid into a plan.

        Args:
            grid: the grid.
            seeds: at least one.
            arms: names of the requested arms; None: all.
            validation_only: arms of a search for which only validation metrics are computed.

        Raises:
            InputError: with every error of the configs and the data sets.
        """
        all_arms = expand_arms(grid, self.settings)
        if (total := len(all_arms) * len(seeds)) > MAX_TRIALS:
            raise InputError(
                f"grid {grid.name}: {len(all_arms):,} arms with {len(seeds):,} seeds are {total:,} trials; "
                f"at most {MAX_TRIALS:,} are planned: take fewer seeds, or make several grids of it"
            )
        errors = settings_errors(grid, all_arms, self.settings)
        selected = all_arms
        try:
            selected = all_arms if arms is None else select_arms(all_arms, arms)
        except InputError as error:
            errors += error.errors
        base = self._base(grid, all_arms, seeds[0], errors)
        identity = _sweep_identity(base.fields()) | ({} if grid.search is None else {"search": grid.search.identity})
        sweep_id = f"{grid.name}-{digest(identity)[:8]}"
        all_seeds = list(dict.fromkeys((*seeds, *self.earlier_seeds(sweep_id))))
        configs = self._configs(grid, all_arms, all_seeds, errors)
        errors += _idle_switches(grid, configs, base)
        identities = self._identify([config for _, config in configs], errors)
        if errors:
            raise InputError(list(dict.fromkeys(errors)))
        total = sum(config.epochs for _, config in configs if config.trained)
        if total > _MAX_EPOCHS:
            raise InputError(
                f"grid {grid.name}: its trials have {total:,} epochs together; at most {_MAX_EPOCHS:,} are planned: take fewer "
                "epochs or seeds, or make several grids of it"
            )
        drafts, requested = _draft_trials(grid, configs, identities, selected, seeds)
        trials = {key: _finish_trial(key, draft, base, identities, frozenset(validation_only)) for key, draft in drafts.items()}
        return Plan(grid, self.profile, base, sweep_id, trials, requested)

    def _laid_over(self, grid: Grid, own: Fields, seed: int) -> Fields:
        return merge(merge(merge(PROFILES[self.profile], grid.base), own), self.settings) | {"seed": seed}

    def _config(self, grid: Grid, name: str, own: Fields, seed: int, base_seed: int) -> TrialConfig:
        base_fields = self._laid_over(grid, {}, base_seed)
        config = _with_parent(self._laid_over(grid, own, seed), base_fields, f"grid {grid.name}, arm {name}")
        return resolve_precision(config, gpu=self.gpu, cpu_flags=self.cpu_flags)

    def _base(self, grid: Grid, all_arms: Mapping[str, Fields], seed: int, errors: Sequence[str]) -> TrialConfig:
        try:
            return self._config(grid, BASE, all_arms[BASE], seed, seed)
        except InputError as error:
            # Every arm would report base's errors again, so only the arms' own fields are checked.
            raise InputError(list(dict.fromkeys([*errors, *error.errors, *_arm_errors(all_arms)]))) from None

    def _configs(
        self, grid: Grid, all_arms: Mapping[str, Fields], seeds: Sequence[int], errors: list[str]
    ) -> list[tuple[str, TrialConfig]]:  # fmt: skip
        """Return every arm's config for every seed, with the arm's name; what is wrong with the others is added to errors."""
        configs: list[tuple[str, TrialConfig]] = []
        for name, own in all_arms.items():
            for seed in seeds:
                try:
                    configs.append((name, self._config(grid, name, own, seed, seeds[0])))
                except InputError as error:
                    errors += error.errors
        return configs

    def _identify(self, configs: Collection[TrialConfig], errors: list[str]) -> _Identities:
        """Return the identities of the configs' data sets; what is wrong is added to errors.

        Each is asked for once: further plans of a command go with the images that it has loaded.
        """
        names, anomalies = _names_of_data(configs)
        by_metric: dict[str, str] = {}
        for name in anomalies:
            if (other := by_metric.setdefault(folded(name), name)) != name:
                errors.append(f"anomaly_datasets: MLflow cannot tell {name!r} from {other!r}; rename one, e.g. by a link")
        for name, as_anomalies in [*((name, False) for name in names), *((name, True) for name in anomalies)]:
            if (name, as_anomalies) not in self._identified:
                try:
                    self._identified[name, as_anomalies] = identify_and_count(name, self.data_dir, anomalies=as_anomalies)
                except InputError as error:
                    errors += error.errors
        known = self._identified
        return _Identities(
            {name: known[name, False][0] for name in names if (name, False) in known},
            {name: known[name, True][0] for name in anomalies if (name, True) in known},
            {name: known[name, False][1] for name in names if (name, False) in known},
        )


def _draft_trials(
    grid: Grid, configs: Sequence[tuple[str, TrialConfig]], identities: _Identities, selected: Collection[str],
    seeds: Sequence[int],
) -> tuple[dict[str, _Draft], frozenset[str]]:  # fmt: skip
    """Return all trials by key, parents included, and the keys of the requested ones."""
    drafts: dict[str, _Draft] = {}
    requested: list[str] = []
    errors: list[str] = []
    for name, config in configs:
        key = trial_key(config, identities.datasets)
        draft = drafts.setdefault(key, _Draft(config))
        for setting in ("anomaly_datasets", "threads"):
            if getattr(draft.config, setting) != getattr(config, setting):
                errors.append(
                    f"grid {grid.name}: arms {draft.arms[0]} and {name} train the same, and differ in {setting} alone: "
                    "set it for all, in base or with --set"
                )
        draft.arms += [name] if name not in draft.arms else []
        if name in selected and config.seed in seeds:
            requested.append(key)
    if errors:
        raise InputError(list(dict.fromkeys(errors)))
    _add_parents(drafts, identities.datasets)
    waiting = list(requested)
    while waiting:
        config = drafts[waiting.pop()].config
        if config.needs_parent and config.parent is not None:
            requested.append(trial_key(config.parent, identities.datasets))
            waiting.append(requested[-1])
    return drafts, frozenset(requested)


def _idle_switches(grid: Grid, configs: Sequence[tuple[str, TrialConfig]], base: TrialConfig) -> list[str]:
    """Return an error for every switch of the grid's factorial that changes nothing of base when it is off."""
    switches = grid.factorial or {}
    off = {arm_name(set(switches) - {switch}, list(switches)): switch for switch in switches}
    idle = {off[name] for name, config in configs if name in off and config.seed == base.seed and _same(config, base)}
    return [
        f"grid {grid.name}: factorial.{as_typed(switch)}: switched off, it changes nothing: base trains the same "
        f"({listed(list(leaves(switches[switch])))}); leave it out, or give base another value"
        for switch in switches
        if switch in idle
    ]


def _same(one: TrialConfig, other: TrialConfig) -> bool:
    """Return whether two configs of one seed train the same."""
    if one.outcome_fields() != other.outcome_fields():
        return False
    return not one.needs_parent or one.parent is None or other.parent is None or _same(one.parent, other.parent)


def _arm_errors(arms: Mapping[str, Fields]) -> list[str]:
    """Return errors of the arms' own fields; used if base itself has errors."""
    errors: list[str] = []
    for name, own in arms.items():
        try:
            make_config({key: value for key, value in own.items() if key != "parent"}, f"arm {name}")
        except InputError as error:
            errors += error.errors
    return errors


def _sweep_identity(fields: Fields) -> Fields:
    """Return the fields that identify a sweep: those of base and its parents that differ from the defaults.

    Only these, so that a field that is added to the config later does not change the ids of older sweeps. Seed and threads do
    not count. Of the anomaly sets only the headline set counts: adding another one extends the same sweep.
    """
    defaults = TrialConfig().fields()
    fields = fields | {"anomaly_datasets": fields["anomaly_datasets"][:1]}
    changed = {key: value for key, value in fields.items() if value != defaults[key] and key not in ("seed", "threads")}
    return changed | ({} if fields["parent"] is None else {"parent": _sweep_identity(fields["parent"])})


def _add_parents(drafts: dict[str, _Draft], datasets: Mapping[str, str]) -> None:
    """Add the parents that are no arm of the grid, and their parents, each with the names of the arms that need it."""
    waiting = [(draft.arms[0], draft.config) for draft in drafts.values()]
    while waiting:
        name, config = waiting.pop(0)
        if config.needs_parent and config.parent is not None:
            draft = drafts.setdefault(trial_key(config.parent, datasets), _Draft(config.parent))
            if not draft.arms and name not in draft.required_by:
                draft.required_by.append(name)
                waiting.append((name, config.parent))


def _with_parent(fields: Fields, base_fields: Fields, where: str, depth: int = 0) -> TrialConfig:
    """Return the config of a trial's fields, with the overrides under ``parent`` replaced by the parent's whole config."""
    overrides = {} if fields.get("parent") is None else fields["parent"]
    if not isinstance(overrides, Mapping):
        raise InputError(f"{where}: parent: a mapping of fields that override base's is needed, not {shown(overrides)}")
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
            "end the chain with an override, e.g. parent: {pairing: augment}"
        )
    parent = _with_parent(parent_fields, base_fields, at, depth + 1)
    return make_config(config.fields() | {"parent": parent.fields()}, where)


def _names_of_data(configs: Collection[TrialConfig]) -> tuple[list[str], list[str]]:
    """Return the names of all data sets and of all anomaly sets of configs and their parents, sorted."""
    names: set[str] = set()
    anomalies: set[str] = set()
    for config in configs:
        anomalies.update(config.anomaly_datasets)
        ancestor: TrialConfig | None = config
        while ancestor is not None:
            names.add(ancestor.dataset)
            ancestor = ancestor.parent
    return sorted(names), sorted(anomalies)


def _finish_trial(
    key: str, draft: _Draft, base: TrialConfig, identities: _Identities, validation_only: frozenset[str]
) -> Trial:  # fmt: skip
    config, datasets = draft.config, identities.datasets
    resumable_from: list[tuple[int, str]] = []
    if config.trained and config.schedule == "constant":
        shorter = (n for n in range(config.epochs - 1, 0, -1) if n > config.warmup_epochs or config.warmup_epochs == 0)
        resumable_from = keys_at_epochs(config, datasets, shorter)
    return Trial(
        key=key,
        config=config,
        arm=draft.arms[0] if draft.arms else _name_of_parent(draft.required_by),
        aliases=tuple(draft.arms[1:]),
        required_by=() if draft.arms else tuple(draft.required_by),
        parent_key=trial_key(config.parent, datasets) if config.needs_parent and config.parent else None,
        resumable_from=tuple(resumable_from),
        untrained_key=trial_key(config.replace(method="untrained", parent=None), datasets) if config.trained else None,
        data=datasets[config.dataset],
        train_images=identities.train_images[config.dataset],
        anomalies={name: identities.anomalies[name] for name in config.anomaly_datasets if name in identities.anomalies},
        diff_from_base=_diff_from_base(config, base),
        validation_only=bool(validation_only) and validation_only.issuperset(draft.arms or draft.required_by),
    )


def _name_of_parent(required_by: Sequence[str]) -> str:
    name = PARENT_OF + ", ".join(required_by)
    return name if len(name) <= MAX_NAME else with_digest(name)


def _diff_from_base(config: TrialConfig, base: TrialConfig) -> dict[str, tuple[Any, Any]]:
    """Return field -> (base's value, the config's value) where they differ, without the seed."""
    own, theirs = config.outcome_fields(), base.outcome_fields()
    # With another method all fields but the data's differ, and `method` shows that: only the config's own fields are listed.
    names = [name for name in (own | theirs if config.method == base.method else own) if own.get(name) != theirs.get(name)]
    diff = {name: (theirs.get(name), own.get(name)) for name in names if name != "seed"}
    if config.needs_parent and config.parent is not None:
        of_parent = config.parent.outcome_fields()
        changed = {name: value for name, value in of_parent.items() if value != theirs.get(name) and name not in _FROM_CHILD}
        if changed:
            diff["parent"] = (None, changed)
    return diff
