"""Collects demonstrations of the scripted expert in the twin, as plain `.npz` episodes.

    MUJOCO_GL=egl python -m agibot_twin.collect --contract config/agibot_g1.yaml --out demos --episodes 400
    --processes 2

An episode has the fields that `dreamzero_policy.data.episodes` reads: contract_hash, instruction, state [N, D],
action [N, A] in the contract's units, views [V, C, height, width, 3] and view_steps [V]. Commands go through the
twin's trajectory controllers like everybody else's; row n is the command for step n, the state is what was measured
at that instant, pictures are taken at the instants of the contract's frames and stored as the views that live
operation makes. A seed names an episode for good; episodes that exist already are left alone, so an interrupted
collection continues. Demonstrations in which the hand never touches the object are not kept.
"""

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agibot_twin.expert import STEP_S, CommandLimits, Expert, ExpertError, velocities
from agibot_twin.robot_model import DRIVEN_JOINTS
from agibot_twin.tasks import sample_touch
from agibot_twin.trajectory_controller import JointTarget, Trajectory, TrajectoryPoint
from agibot_twin.world import TwinWorld
from dreamzero_policy.runtime.contract import Contract, load_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, Statistics

Floats = NDArray[np.float64]
NS_PER_S = 1_000_000_000
START_S = 1.5  # to go from home to the start pose before the episode begins
SETTLE_S = 0.5
EXPERT_STREAM = 2  # of a seed's random numbers


@dataclass(frozen=True, eq=False)
class Demonstration:
    """What was asked, measured, commanded and seen during N steps; V pictures of C cameras."""

    instruction: str
    state: Floats  # [N, D]
    action: Floats  # [N, A] absolute targets
    views: NDArray[np.uint8]  # [V, C, view height, view width, 3]
    view_steps: NDArray[np.int64]  # [V]

    def save(self, path: Path, contract: Contract) -> None:
        """Write the file whole or not at all."""
        aside = path.with_name(path.name + ".part")
        with aside.open("wb") as file:
            np.savez(file, contract_hash=contract.hash, **vars(self))
        aside.replace(path)


class Collector:
    """One twin and one expert, making one episode after the other."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self.world = TwinWorld()
        self.expert = Expert(command_limits(contract))
        model = contract.model
        self.embodiment = Embodiment(
            contract, Statistics(_unit(len(model.state_joints)), _unit(model.action_width), "")
        )
        self._command_columns = [DRIVEN_JOINTS.index(joint) for joint in model.state_joints]
        offsets = model.chunk.frame_offsets_steps
        self._steps_per_frame = offsets[-1] - offsets[-2]

    def demonstration(self, seed: int) -> Demonstration | None:
        """The demonstration of this seed, or None if the hand does not touch.

        Raises:
            ExpertError: no path within the limits.
        """
        self.world.reset(seed)
        rng = np.random.default_rng((seed, EXPERT_STREAM))
        start = self.expert.start_pose(rng)
        self._go_to(start)
        poses = self.world.object_poses()
        task = sample_touch(seed, poses)
        commands = self.expert.demonstrate(task, poses[task.thing.name][:3], start, rng)
        follow(self.world, commands)
        begin_ns, states, views, view_steps, nearest_m = self.world.now_ns(), [], [], [], np.inf
        for step in range(len(commands)):
            self.world.advance_to(begin_ns + round(step * STEP_S * NS_PER_S))
            pictured = step % self._steps_per_frame == 0
            seen = self.world.observe(images=pictured)
            positions = dict(zip(self.world.joint_names, seen.joints.positions, strict=True))
            states.append(self.embodiment.state(positions))
            if pictured:
                views.append([self.embodiment.view(seen.images[camera]) for camera in self.contract.model.cameras])
                view_steps.append(step)
            hand = self.expert.arms.hand_position(task.hand, seen.joints.positions)
            nearest_m = min(nearest_m, task.distance_m(hand, self.world.object_poses()))
        if not task.success(nearest_m):
            return None
        return Demonstration(
            task.instruction, np.array(states), self._actions(commands), np.array(views), np.array(view_steps)
        )

    def _go_to(self, start: Floats) -> None:
        home = self.expert.arms.home
        s = np.linspace(0, 1, round(START_S / STEP_S))[:, None]
        follow(self.world, home + s**3 * (10 + s * (6 * s - 15)) * (start - home))
        self.world.step(START_S + SETTLE_S)

    def _actions(self, commands: Floats) -> Floats:
        """Commands [N, 20] of the driven joints → actions [N, A] in the contract's units and order."""
        absolute = np.array([self.embodiment.state(dict(zip(DRIVEN_JOINTS, row, strict=True))) for row in commands])
        actions = np.zeros((len(commands), self.contract.model.action_width))
        column = 0
        for group in self.contract.model.action:
            if group.commanded:
                columns = [self.contract.model.state_joints.index(joint) for joint in group.joints]
                actions[:, column : column + group.width] = absolute[:, columns]
            column += group.width
        return actions


def command_limits(contract: Contract) -> CommandLimits:
    """The contract's limits in the order of the driven joints."""
    limits = [contract.site.limits[joint] for joint in DRIVEN_JOINTS]
    return CommandLimits(
        np.array([limit.velocity for limit in limits]), np.array([limit.acceleration for limit in limits])
    )


def follow(world: TwinWorld, commands: Floats) -> None:
    """Hand every controller its share of the commands [N, 20]; row 0 is due now."""
    speeds = velocities(commands)
    for name, controller in world.controllers.items():
        columns = [DRIVEN_JOINTS.index(joint) for joint in controller.joints]
        points = [
            TrajectoryPoint(round(step * STEP_S * NS_PER_S), JointTarget(position[columns], speed[columns]))
            for step, (position, speed) in enumerate(zip(commands, speeds, strict=True))
        ]
        world.follow(name, Trajectory(controller.joints, points))


def _unit(width: int) -> Quantiles:
    """Statistics that change nothing of importance: views and raw states do not use them."""
    return Quantiles(np.zeros(width), np.ones(width))


def _collect(arguments: tuple[str, str, list[int]]) -> None:
    contract_path, out, seeds = arguments
    collector, begin, kept = Collector(load_contract(contract_path)), time.monotonic(), 0
    for number, seed in enumerate(seeds, 1):
        path = Path(out) / f"touch_{seed:06d}.npz"
        if path.exists():
            continue
        try:
            made = collector.demonstration(seed)
        except ExpertError as error:
            print(f"seed {seed}: {error}", flush=True)
            continue
        if made is not None:
            made.save(path, collector.contract)
            kept += 1
        if number % 20 == 0:
            print(
                f"{number}/{len(seeds)} done, {kept} kept, {(time.monotonic() - begin) / number:.2f} s each", flush=True
            )
    collector.world.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contract", required=True, help="path of the contract")
    parser.add_argument("--out", required=True, help="folder for the episodes")
    parser.add_argument("--episodes", type=int, default=400, help="number of seeds to try")
    parser.add_argument("--first-seed", type=int, default=100_000, help="seed of the first episode")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    Path(options.out).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    seeds = list(range(options.first_seed, options.first_seed + options.episodes))
    shares = [(options.contract, options.out, seeds[i :: options.processes]) for i in range(options.processes)]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        pool.map(_collect, shares)


if __name__ == "__main__":
    main()
