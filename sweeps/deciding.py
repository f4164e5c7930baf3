"""``--until-decided``: further seeds for the contrasts that are still undecided, until all are decided or the budget is spent.

One looks at the numbers after every round and goes on because of what one saw, so verdicts rest on
:data:`sweeps.inference.ANYTIME`, which allows that, for this sweep from then on.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console

from core.files import save_json
from sweeps import contrasts, cost, report
from sweeps.contrasts import Contrast
from sweeps.grid import BASE
from sweeps.inference import ANYTIME, LEVEL, seeds_to_decide
from sweeps.job import MARK, Budget, Job
from sweeps.origin import command
from sweeps.plan import Plan
from sweeps.progress import duration
from sweeps.session import Session

#: What is said of so many further seeds at the end.
_FURTHER = 4


def run(job: Job, budget: Budget, session: Session, console: Console) -> Plan:
    """Runs the plan, then round by round further seeds; returns the plan of all that was run.

    A round is one further seed of every undecided arm and of base (more where there are slots for more). It is begun only if
    what it is estimated to cost is left of the budget. Figures are drawn in the end.
    """
    began, plan = time.monotonic(), job.plan
    # From the first look on, and whatever becomes of this command, the sweep is tested as one that was looked at.
    save_json(job.options.storage / "sweeps" / plan.sweep / MARK, {"command": command(), "budget": budget.text})
    seeds = list(dict.fromkeys(trial.config.seed for trial in plan.trials.values() if trial.key in plan.wanted))
    session.run(plan, draw=False)
    while not session.outcome.interrupted:
        found = _contrasts(job, plan)
        # Differences that do not spread at all are beyond the test, and more of them would change nothing.
        undecided = [c for c in found if c.verdict == "one seed" or (c.verdict == "undecided" and c.interval is not None)]
        for contrast in found:
            if contrast.verdict == "undecided" and contrast not in undecided:
                _say(console, f"{contrast.arm}: {contrast.difference:+.4f} in each seed, without the spread that a test needs")
        if not undecided:
            _say(console, "no seed can decide more" if any(c.verdict == "undecided" for c in found) else
                          "every arm that has results is decided")  # fmt: skip
            break
        round_ = _round(job, plan, seeds, [contrast.arm for contrast in undecided], session)
        price, spent = _price(job, round_, session, budget), _spent(job, session, budget, began)
        if spent + price > budget.amount:
            _say(console, f"{len(undecided)} undecided; a further round would take about {_amount(price, budget)}, and of "
                          f"{budget.text} {_amount(max(0.0, budget.amount - spent), budget)} is left")  # fmt: skip
            break
        new = list(
            dict.fromkeys(t.config.seed for t in round_.trials.values() if t.key in round_.wanted and t.config.has_encoder)
        )
        _say(console, f"undecided: {', '.join(contrast.arm for contrast in undecided)}; adding seed {', '.join(map(str, new))}")
        tried = any(not job.store.is_done(round_.trials[key]) for key in round_.wanted)
        session.run(round_, draw=False)
        seeds += [seed for seed in new if seed not in seeds]
        plan = plan.extended(round_)
        before = {contrast.arm: contrast.n for contrast in undecided}
        if tried and all(contrast.n <= before[contrast.arm] for contrast in _contrasts(job, plan) if contrast.arm in before):
            _say(console, "the further seeds brought no result, so no more are added")
            break
    for line in outlook(job, plan, session):
        _say(console, line)
    if not session.outcome.interrupted:
        session.run(plan)  # the figures, beyond the budget
    return plan


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


def _contrasts(job: Job, plan: Plan) -> list[Contrast]:
    records = [job.store.record(trial) for trial in plan.trials.values()]
    summaries = report.summarize([record for record in records if record.status != "open"])
    return contrasts.contrasts(summaries, job.grid.primary, job.grid.margin, test=ANYTIME)


def _round(job: Job, plan: Plan, seeds: Sequence[int], undecided: Sequence[str], session: Session) -> Plan:
    """The next seed for the undecided arms; as many as it takes to fill the slots."""
    next_seed, wanted = 0, list[int]()
    while True:
        while next_seed in seeds or next_seed in wanted:
            next_seed += 1
        wanted.append(next_seed)
        found = job.replan(job.grid, seeds=wanted, arms=[BASE, *undecided])
        if 2 * len(found.wanted) > session.slots(plan):
            return found


def _open(job: Job, plan: Plan) -> dict[str, float]:
    """The plan's open trials -> estimated seconds."""
    done = [key for key in plan.wanted if job.store.is_done(plan.trials[key])]
    return dict(cost.estimate(plan, job.store, done, gpu=job.gpus_per_trial > 0).seconds)


def _price(job: Job, plan: Plan, session: Session, budget: Budget) -> float:
    """What a plan's open trials are estimated to cost, in the budget's unit (seconds or hours)."""
    seconds = _open(job, plan)
    if budget.unit == "wall":
        return cost.wall_time(plan, seconds, session.slots(plan))
    return sum(seconds.values()) * _share(job) / 3600


def _spent(job: Job, session: Session, budget: Budget, began: float) -> float:
    return time.monotonic() - began if budget.unit == "wall" else session.trial_seconds * _share(job) / 3600


def _share(job: Job) -> float:
    """Cores or GPUs of a trial."""
    return job.gpus_per_trial or job.plan.base.threads


def _amount(amount: float, budget: Budget) -> str:
    return duration(amount) if budget.unit == "wall" else f"{amount:.2f} {budget.unit}-hours"


def outlook(job: Job, plan: Plan, session: Session) -> list[str]:
    """What it would take to decide what is undecided, a line for each arm."""
    found = _contrasts(job, plan)
    rejected = sum(contrast.verdict in ("higher", "lower") for contrast in found)
    # Holm's level for the smallest p of those that are left.
    level = LEVEL / max(1, sum(contrast.p is not None for contrast in found) - rejected)
    lines = []
    for contrast in found:
        if contrast.verdict != "undecided" or contrast.deviation is None or contrast.difference is None:
            continue
        reach = ANYTIME.half_width(contrast.deviation, contrast.n + _FURTHER, level)
        resolved = f"{reach:.4f}" if reach < 1e6 else "nothing"
        text = (
            f"undecided {contrast.arm}: {contrast.difference:+.4f} in {contrast.n} seeds; {_FURTHER} more seeds, about "
            f"{duration(_FURTHER * _seed_seconds(job, plan, contrast.arm, session))}, would resolve differences of {resolved}"
        )
        total = seeds_to_decide(contrast.difference, contrast.deviation, contrast.n, level=level, margin=job.grid.margin)
        if total is None:
            lines.append(f"{text}; if it stays as it is, over 500 seeds would not decide it")
        elif total > contrast.n + _FURTHER:
            seconds = (total - contrast.n) * _seed_seconds(job, plan, contrast.arm, session)
            lines.append(f"{text}; if it stays as it is, {total - contrast.n} more would decide it, about {duration(seconds)}")
        else:
            lines.append(f"{text}; if it stays as it is, {total - contrast.n} more would decide it")
    return lines


def _seed_seconds(job: Job, plan: Plan, arm: str, session: Session) -> float:
    """Wall time of one further seed of an arm, base and parents included."""
    fresh = max(trial.config.seed for trial in plan.trials.values()) + 1
    further = job.replan(job.grid, seeds=[fresh], arms=[BASE, arm])
    return cost.wall_time(further, _open(job, further), session.slots(plan))
