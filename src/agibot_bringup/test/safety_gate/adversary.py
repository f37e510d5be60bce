"""A source that sends whatever might slip through a gate, most of it good enough to pass were the gate open."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from agibot_bringup.safety_gate.trajectory import Point, Received
from dreamzero_policy.runtime.contract import Contract, Controller
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.limits import Limits
from dreamzero_policy.runtime.observation import NS_PER_S

BAD_NUMBERS = (float("nan"), float("inf"), -float("inf"), 1e300, -1e18, 50.0, 1e-320)
BAD_TIMES_NS = (0, -1, 2**62 // 10**6, 10**15, 999_999)
FIELDS = ("positions", "velocities", "accelerations", "effort")
Pose = Callable[[Controller], Floats]  # where a controller commands its joints [J] now


class Adversary:
    """Every message is drawn anew from a seeded generator; some are copies of earlier ones."""

    def __init__(self, contract: Contract, rng: np.random.Generator) -> None:
        self.contract, self.rng = contract, rng
        self.limits = {c.name: Limits(c.joints, contract.site.limits) for c in contract.site.controllers}
        self._kept: list[Received] = []

    def message(self, pose: Pose, now_ns: int) -> Received:
        """Half of them are smooth motions from the pose, inside the limits; the others have something wrong."""
        received = self._motion(pose)
        draw = self.rng.uniform()
        if draw < 0.05 and self._kept:
            received = self._kept[self.rng.integers(len(self._kept))]  # word for word what was sent before
        elif draw < 0.15:  # a good motion, told for another instant
            received = replace(received, stamp_ns=max(1, now_ns + round(self.rng.uniform(-0.3, 0.6) * NS_PER_S)))
        elif draw < 0.5:
            received = self._spoilt(received)
        self._kept = [*self._kept[-20:], received]
        return received

    def _motion(self, pose: Pose) -> Received:
        controllers = self._some_controllers()
        joints = [joint for controller in controllers for joint in controller.joints]
        start = np.concatenate([pose(controller) for controller in controllers])
        speed = np.concatenate([self.limits[controller.name].velocity for controller in controllers])
        middle = np.concatenate([(self.limits[c.name].lower + self.limits[c.name].upper) / 2 for c in controllers])
        seconds = self.rng.uniform(1.0, 3.0)
        amplitude = np.sign(middle - start + 1e-9) * self.rng.choice([0.0, 0.02, 0.1, 0.3]) * speed * seconds / 4.1
        x = np.linspace(0, 1, round(self.rng.uniform(5, 30) * seconds) + 1)[:, None]
        positions = start + amplitude * (1 - np.cos(2 * np.pi * x)) ** 2 / 4
        velocities = amplitude * np.pi * (1 - np.cos(2 * np.pi * x)) * np.sin(2 * np.pi * x) / seconds
        velocities[-1] = 0.0
        after_ns = (self.rng.choice([0.0, 0.05, 0.1]) * NS_PER_S + x[:, 0] * seconds * NS_PER_S).round().astype(int)
        points = zip(after_ns.tolist(), positions.tolist(), velocities.tolist(), strict=True)
        order = self.rng.permutation(len(joints)) if self.rng.uniform() < 0.1 else np.arange(len(joints))
        return Received(
            [joints[i] for i in order],
            [Point(at_ns, [p[i] for i in order], [v[i] for i in order]) for at_ns, p, v in points],
        )

    def _some_controllers(self) -> Sequence[Controller]:
        controllers = self.contract.site.controllers
        count = self.rng.choice([1, 1, 1, 2, len(controllers)])
        return [controllers[i] for i in self.rng.choice(len(controllers), count, replace=False)]

    def _spoilt(self, received: Received) -> Received:
        rng, points, joints = self.rng, list(received.points), list(received.joints)
        at, joint = rng.integers(len(points)), rng.integers(len(joints))
        match rng.choice(["number", "length", "time", "joint", "few", "none", "reversed", "noise", "away", "moving"]):
            case "number":
                field = str(rng.choice(FIELDS))
                values = list(getattr(points[at], field)) or [0.0] * len(joints)
                values[joint] = float(rng.choice(BAD_NUMBERS))
                points[at] = replace(points[at], **{field: values})
            case "length":
                points[at] = replace(points[at], **{str(rng.choice(FIELDS)): [0.0] * int(rng.integers(30))})
            case "time":
                points[at] = replace(points[at], after_ns=int(rng.choice(BAD_TIMES_NS)))
            case "joint":
                joints[joint] = str(rng.choice([joints[0], "nobody", "", "base_linear_x"]))
            case "few":
                points = points[: rng.integers(1, 3)]
            case "none":
                points, joints = [], joints if rng.uniform() < 0.5 else []
            case "reversed":
                points.reverse()
            case "noise":
                size = 10.0 ** rng.uniform(-4, 3)
                points = [
                    replace(p, positions=(np.array(p.positions) + size * rng.normal(size=len(joints))).tolist())
                    for p in points
                ]
            case "away":
                away = rng.uniform(-1, 1, len(joints))
                points = [replace(p, positions=(np.array(p.positions) + away).tolist()) for p in points]
            case "moving":
                points[-1] = replace(points[-1], velocities=rng.normal(size=len(joints)).tolist())
        return replace(received, points=points, joints=joints)
