"""How often verdicts err: ``python -m tests.benchmarks.simulate_verdicts [--runs 2000]``, a Markdown table.

Sweeps of 13 arms whose true differences to base are known; seeds share base, as in a real sweep. Each sweep goes through the
functions that a command calls. An error is a false statement: "higher" or "lower" of an arm at 0 (or in the wrong direction),
"equivalent" of one at the margin or beyond, a claim that holds or fails though its two arms are equal. A row says in what share
of the sweeps there is at least one, with the standard error of the simulation, and what shares of the true differences and of
the true equivalences are found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sweeps.analysis.arm_summary import ArmSummary, summarize
from sweeps.analysis.claim_tests import judge
from sweeps.analysis.contrasts import Contrast, contrasts
from sweeps.analysis.significance import ANYTIME_VALID_T_TEST, PAIRED_T_TEST, SeedTest, first_seeds
from sweeps.planning.claim import parse_claim
from sweeps.planning.trial import Plan
from sweeps.storage.records import TrialRecord, TrialStatus
from tests.sweeps.tiny import tiny_plan

ARMS, MARGIN, MOST = 13, 0.01, 10
METRIC = "nmi"


class Sweeps:
    """Draws sweeps with true differences of the arms to base."""

    def __init__(self, *, baselines: bool = False, seed: int = 0) -> None:
        methods = ("raw-pixels", "pca", "laplacian-eigenmaps")
        arms = {name: {"method": name} for name in methods} if baselines else {f"a{i}": {"mu": i + 1} for i in range(ARMS)}
        self.names = list(arms)
        self._plan: Plan = tiny_plan(Path("unused"), arms, seeds=tuple(range(MOST)))
        self._draw, self._constant = np.random.default_rng(seed), baselines

    def draw(self, shifts: Sequence[float], spread: float) -> dict[str, np.ndarray]:
        """Values of MOST seeds by arm: the spread is that of an arm's difference to base."""
        base = self._draw.normal(0.5, spread if self._constant else 0.02, MOST)
        own = {
            name: np.full(MOST, 0.5 + shift) if self._constant else base + self._draw.normal(shift, spread, MOST)
            for name, shift in zip(self.names, shifts, strict=True)
        }
        return {"base": base, **own}

    def summaries(self, values: dict[str, np.ndarray], n: int | dict[str, int]) -> list[ArmSummary]:
        """The arms, of which so many seeds are done."""
        found = []
        for trial in self._plan.trials.values():
            seed, arm = trial.config.seed, trial.arm
            if seed < (n if isinstance(n, int) else n[arm]) or not trial.config.has_encoder:
                found.append(TrialRecord(trial, TrialStatus.DONE, None, {METRIC: float(values[arm][seed])}))
        return summarize(found)


def false_statement(contrast: Contrast, shift: float) -> bool:
    """Whether a verdict is not true of an arm with this difference to base."""
    if contrast.verdict == "equivalent":
        return abs(shift) >= MARGIN
    return contrast.verdict in ("higher", "lower") and (shift == 0 or (shift > 0) != (contrast.verdict == "higher"))


def once(test: SeedTest, n: int) -> Callable[[Sweeps, dict[str, np.ndarray]], list[list[Contrast]]]:
    """One look at n seeds."""
    return lambda sweeps, values: [contrasts(sweeps.summaries(values, n), METRIC, MARGIN, test=test)]


def three_looks(sweeps: Sweeps, values: dict[str, np.ndarray]) -> list[list[Contrast]]:
    """``--seeds 5`` as planned, then 8 and 10: the first by the fixed test, the others by the anytime-valid one."""
    tests = {5: PAIRED_T_TEST, 8: ANYTIME_VALID_T_TEST, 10: ANYTIME_VALID_T_TEST}
    return [contrasts(sweeps.summaries(values, n), METRIC, MARGIN, test=test) for n, test in tests.items()]


def until_decided(sweeps: Sweeps, values: dict[str, np.ndarray]) -> list[list[Contrast]]:
    """``--until-decided`` up to MOST seeds: further ones for the undecided arms alone."""
    n = dict.fromkeys(["base", *sweeps.names], first_seeds(len(sweeps.names)))
    looks = []
    while True:
        looks.append(contrasts(sweeps.summaries(values, n), METRIC, MARGIN, test=ANYTIME_VALID_T_TEST))
        undecided = [contrast.arm for contrast in looks[-1] if contrast.verdict == "undecided"]
        if not undecided or n["base"] == MOST:
            return looks
        n |= {arm: n[arm] + 1 for arm in ("base", *undecided)}


def row(name: str, sweeps: Sweeps, shifts: Sequence[float], spread: float, look: Callable[..., list[list[Contrast]]],
        runs: int) -> str:  # fmt: skip
    """One row of the table of contrasts."""
    wrong, found, equivalent = 0, 0, 0
    for _ in range(runs):
        looks = look(sweeps, sweeps.draw(shifts, spread))
        wrong += any(false_statement(c, shift) for at in looks for c, shift in zip(at, shifts, strict=True))
        found += sum(c.verdict == "higher" for c, shift in zip(looks[-1], shifts, strict=True) if shift > 0)
        equivalent += sum(c.verdict == "equivalent" for c, shift in zip(looks[-1], shifts, strict=True) if abs(shift) < MARGIN)
    above, within = sum(shift > 0 for shift in shifts), sum(abs(shift) < MARGIN for shift in shifts)
    shares = [f"{100 * hits / (runs * of):.0f} %" if of else "-" for hits, of in ((found, above), (equivalent, within))]
    return _line(name, spread, wrong, runs, *shares)


def claims_row(sweeps: Sweeps, spread: float, runs: int) -> str:
    """Twelve claims, all of arms that are equal."""
    claims = [parse_claim(f"{METRIC}: a0 > a{i}", sweeps.names) for i in range(1, ARMS)]
    wrong = 0
    for _ in range(runs):
        verdicts = judge(claims, sweeps.summaries(sweeps.draw([0.0] * ARMS, spread), 5))
        wrong += any(verdict.outcome in ("holds", "fails") for verdict in verdicts)
    return _line("12 claims of equal arms", spread, wrong, runs, "-", "-")


def _line(name: str, spread: float, wrong: int, runs: int, found: str, equivalent: str) -> str:
    share = wrong / runs
    error = np.sqrt(share * (1 - share) / runs)
    return f"| {name} | {spread:g} | {100 * share:.1f} ± {100 * error:.1f} % | {found} | {equivalent} |"


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args(arguments).runs
    where = {"all at 0": [0.0] * 13, "all at the margin": [MARGIN] * 13, "7 at 0, 6 at the margin": [0.0] * 7 + [MARGIN] * 6}
    looks = {"5 seeds": once(PAIRED_T_TEST, 5), "5, then 8, then 10 seeds": three_looks, "until decided": until_decided}
    print("| sweep | spread of the differences | sweeps with a false statement | differences found | equivalences found |")
    print("| --- | ---: | ---: | ---: | ---: |")
    arms = Sweeps()
    for name, look in looks.items():
        for at, shifts in where.items():
            for spread in (0.001, 0.004, 0.01):
                print(row(f"{name}; {at}", arms, shifts, spread, look, runs), flush=True)
    print(row("3 baselines without seeds; at 0", Sweeps(baselines=True), [0.0] * 3, 0.004, looks["5 seeds"], runs))
    print(claims_row(arms, 0.004, runs))


if __name__ == "__main__":
    main()
