"""The regimes side by side: the same episodes with the same model, at several latencies, on simulated time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dreamzero_policy.evaluation.closed_loop import Played
from dreamzero_policy.evaluation.motion import mean
from dreamzero_policy.evaluation.stage import Job, Setup, Stage
from dreamzero_policy.runtime.contract import Contract, ModelSection
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.regime import LOOK_AHEAD, OVERLAP, SLOWED, STOP_AND_GO, TWO_SESSIONS, RegimeSettings
from dreamzero_policy.runtime.rest import longest_plan_s

PREFIX = "two_sessions_prefix"  # two_sessions with prefix conditioning
CASES = {
    STOP_AND_GO: RegimeSettings(STOP_AND_GO),
    TWO_SESSIONS: RegimeSettings(OVERLAP, TWO_SESSIONS),
    PREFIX: RegimeSettings(OVERLAP, TWO_SESSIONS),
    LOOK_AHEAD: RegimeSettings(OVERLAP, LOOK_AHEAD),
    SLOWED: RegimeSettings(SLOWED, LOOK_AHEAD),
}


@dataclass(frozen=True)
class Episodes:
    """Which ones are played, and with how many denoising steps."""

    split: str
    first_seed: int
    count: int
    steps: int  # 0: as many as the checkpoint says, to be filled in before they are played

    def jobs(self) -> list[Job]:
        seeds = range(self.first_seed, self.first_seed + self.count)
        return [Job(f"wam-{self.steps}", self.split, seed) for seed in seeds]


@dataclass(frozen=True)
class Case:
    """One way to share time at one latency."""

    regime: str  # of CASES
    latency_s: float  # simulated, from a request to its answer


def compare(
    setup: Setup,
    cases: Sequence[Case],
    episodes: Episodes,
    notice: Callable[[Case, Job, Played], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """A row for each case over all episodes, which are played one after the other, each in all cases.

    Raises:
        SuiteError, CheckpointError, ContractError, ParametersError: see there.
    """
    stage = Stage(setup)
    node = stage.parameters
    played: dict[Case, list[Played]] = {case: [] for case in cases}
    try:
        for job in episodes.jobs():
            for case in cases:
                stage.setup = replace(setup, latency_s=case.latency_s)
                stage.parameters = replace(node, loop=settings_of(case, node.loop, stage.contract))
                played[case].append(stage.play(job))
                notice(case, job, played[case][-1])
    finally:
        stage.close()
    return [row(case, those, stage.contract.model, node.loop.lead_s) for case, those in played.items()]


def settings_of(case: Case, node: LoopSettings, contract: Contract) -> LoopSettings:
    """The node's settings in a case's regime, with plans as long as it wants and a prefix where its name says so."""
    regime = CASES[case.regime]
    wanted_s = (longest_plan_s(contract, node.lead_s, mode) for mode in regime.modes())
    max_plan_s = max(node.max_plan_s, *wanted_s)
    return replace(node, regime=regime, max_plan_s=max_plan_s, prefix_conditioning=case.regime == PREFIX)


def row(case: Case, episodes: Sequence[Played], model: ModelSection, lead_s: float) -> dict[str, Any]:
    """What a case came to. `idle_arithmetic` is what its regime allows for this latency, steps of the grid aside."""
    motions = [played.motion for played in episodes]
    jumps = [jump for motion in motions for jump in motion.seam_velocity_jumps]
    return {
        "regime": case.regime,
        "latency_s": case.latency_s,
        "episodes": len(episodes),
        "success": mean([played.outcome.success for played in episodes]),
        "progress": mean([played.outcome.progress for played in episodes]),
        "idle_fraction": mean([played.motion.idle_fraction(played.end_ns) for played in episodes]),
        "idle_arithmetic": idle(case.regime, case.latency_s + lead_s, model.chunk.actions * model.step_s),
        "seam_position_jump_rad": mean([jump for motion in motions for jump in motion.seam_position_jumps]),
        "max_seam_velocity_jump_rad_s": max(jumps, default=None),
        "max_seam_jerk_rad_s3": max((jerk for motion in motions for jerk in motion.seam_jerks), default=None),
        "observation_to_row_s": mean([played.motion.age_s() for played in episodes]),
        "chunks": sum(played.chunks for played in episodes),
        "rejected": sum(sum(played.rejected.values()) for played in episodes),
        "seconds": sum(played.seconds for played in episodes),
    }


def idle(regime: str, latency_s: float, horizon_s: float) -> float:
    """Share of time without a row to execute, for chunks of `horizon_s` that can be executed `latency_s` after they
    were observed."""
    settings = CASES[regime]
    if regime == STOP_AND_GO:
        return latency_s / (horizon_s + latency_s)
    way, speed = settings.modes()[-1], settings.slowest_speed if regime == SLOWED else 1.0
    gap_s = max(0.0, latency_s - replace(way, speed=speed).longest_s(horizon_s))
    period_s = horizon_s / 2 if way.way == TWO_SESSIONS else horizon_s / speed
    return gap_s / (period_s + gap_s)
