"""Which links of the G1 a planner need not check against each other, and why: python -m agibot_twin.collision_pairs

Writes moveit/agibot_g1_collisions.xacro of agibot_bringup, which its SRDF includes. The shapes are the description's
collision shapes, fingers coupled as they are. Of every two links with shapes:

    Adjacent  one joint lies between them, or several with nothing but shapeless links in between
    Always    they overlap in at least OFTEN of random poses: the shapes were drawn into each other
    User      the twin lets them overlap too: the shoulders turn inside the torso's shape
    Never     a search for the pose in which they come nearest found none with less than MARGIN_M between them

Random poses alone do not tell what can never touch: the hands of two arms meet in about one of ten thousand. So
the search runs over the joints between the two links, generation by generation around the best poses so far, and
again from the beginning. Whatever it brings together stays checked, and so does a pair with more joints in between than
can be searched well. Everything is drawn from a fixed seed, so the file can be derived again and compared.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from agibot_bringup.description import joint_limits, load_home, load_urdf, share_folder
from agibot_twin.robot_model import DRIVEN_JOINTS, robot_spec

Pair = tuple[str, str]  # names of two links, in alphabetical order

FILE = Path("moveit") / "agibot_g1_collisions.xacro"
SEED = 1
POSES, OFTEN = 400, 0.95
MARGIN_M = 0.01  # the search stops short of the very nearest pose
FAR_M = 3.0  # distances are measured up to here
MOST_JOINTS = 8  # in between
BEGINNINGS, FIRST_GENERATION, GENERATION, ELITE, GENERATIONS = 8, 300, 80, 12, 12


class Shapes:
    """The description's collision shapes in any pose: joint positions [20] in the order of DRIVEN_JOINTS."""

    def __init__(self) -> None:
        self.urdf = load_urdf()
        self.robot = ElementTree.fromstring(self.urdf)
        self.model = mujoco.MjModel.from_xml_string(_with_settings(self.robot))
        self.data = mujoco.MjData(self.model)
        self.geoms: dict[str, list[int]] = {}
        for geom in range(self.model.ngeom):
            self.geoms.setdefault(self.model.body(self.model.geom_bodyid[geom]).name, []).append(geom)
        self.links = sorted(self.geoms)
        limits = joint_limits(self.urdf)
        self.lower = np.array([limits[joint].lower for joint in DRIVEN_JOINTS])
        self.upper = np.array([limits[joint].upper for joint in DRIVEN_JOINTS])
        self.home = np.array([load_home()[joint] for joint in DRIVEN_JOINTS])
        self._parent = {j.find("child").get("link"): j for j in self.robot.iterfind("joint")}
        self._place = np.zeros((self.model.nq, len(DRIVEN_JOINTS)))  # qpos of driven joints and of those that follow
        for joint in self.robot.iterfind("joint"):
            if (driver := _driver_of(joint)) is not None:
                column, share = driver
                self._place[self.model.joint(joint.get("name")).qposadr[0], column] = share

    def pose(self, positions: NDArray[np.float64]) -> None:
        """Put the robot there."""
        self.data.qpos[:] = self._place @ positions
        mujoco.mj_kinematics(self.model, self.data)

    def distance(self, pair: Pair) -> float:
        """Between the two links as they are now [m], negative where they overlap, at most FAR_M.

        MuJoCo 3.11 answers exactly zero in about one of ten thousand cases for shapes that are apart. No pose that is
        drawn makes two shapes touch to the last digit, so a zero is no answer. For boxes it sometimes answers too much;
        one answer among thousands does not mislead a search.
        """
        distances = (
            mujoco.mj_geomDistance(self.model, self.data, first, second, FAR_M, None)
            for first, second in product(self.geoms[pair[0]], self.geoms[pair[1]])
        )
        return min((distance for distance in distances if distance != 0.0), default=FAR_M)

    def joints_between(self, pair: Pair) -> NDArray[np.int64]:
        """Columns of the driven joints on the way from one link to the other."""
        ways = [{joint.get("name"): joint for joint in self._to_root(link)} for link in pair]
        between = [joint for name, joint in (ways[0] | ways[1]).items() if (name in ways[0]) != (name in ways[1])]
        return np.array(sorted({driver[0] for joint in between if (driver := _driver_of(joint)) is not None}), np.int64)

    def adjacent(self) -> set[Pair]:
        """Pairs with no third shape between them on the way to the root."""
        pairs = set()
        for link in self.links:
            above = (joint.find("parent").get("link") for joint in self._to_root(link))
            if (nearest := next((name for name in above if name in self.geoms), None)) is not None:
                pairs.add(_pair(link, nearest))
        return pairs

    def _to_root(self, link: str) -> Iterator[ElementTree.Element]:
        while (joint := self._parent.get(link)) is not None:
            yield joint
            link = joint.find("parent").get("link")


def reasons(shapes: Shapes) -> dict[Pair, str]:
    """Why a pair need not be checked, in the words of an SRDF. A pair that is missing must be."""
    found = dict.fromkeys(shapes.adjacent(), "Adjacent")
    found |= dict.fromkeys((pair for pair in _let_overlap_by_the_twin(shapes.urdf) if pair not in found), "User")
    overlaps = overlap_shares(shapes, [pair for pair in combinations(shapes.links, 2) if pair not in found])
    found |= {pair: "Always" for pair, share in overlaps.items() if share >= OFTEN}
    apart = [pair for pair, share in overlaps.items() if share == 0 and nearest_m(shapes, pair) >= MARGIN_M]
    return found | dict.fromkeys(apart, "Never")


def overlap_shares(shapes: Shapes, pairs: Sequence[Pair], poses: int = POSES, seed: int = SEED) -> dict[Pair, float]:
    """In which share of random poses, drawn evenly over the joints' ranges, the links of a pair overlap."""
    count = dict.fromkeys(pairs, 0)
    for positions in np.random.default_rng(seed).uniform(shapes.lower, shapes.upper, (poses, len(DRIVEN_JOINTS))):
        shapes.pose(positions)
        for pair in pairs:
            count[pair] += shapes.distance(pair) < 0
    return {pair: overlaps / poses for pair, overlaps in count.items()}


def nearest_m(shapes: Shapes, pair: Pair, seed: int = SEED) -> float:
    """The least distance that the search over the joints between two links finds [m]; it stops below MARGIN_M.

    Zero where there are more joints than can be searched well.
    """
    joints = shapes.joints_between(pair)
    if len(joints) > MOST_JOINTS:
        return 0.0
    generator, least_m = np.random.default_rng(seed), FAR_M
    for _ in range(BEGINNINGS):
        least_m = min(least_m, _search(shapes, pair, joints, generator))
        if least_m < MARGIN_M:
            break
    return least_m


def _search(shapes: Shapes, pair: Pair, joints: NDArray[np.int64], generator: np.random.Generator) -> float:
    positions, lower, upper = shapes.home.copy(), shapes.lower[joints], shapes.upper[joints]
    candidates, best, best_m = generator.uniform(lower, upper, (FIRST_GENERATION, len(joints))), [], []
    for _ in range(GENERATIONS):
        for candidate in candidates:
            positions[joints] = candidate
            shapes.pose(positions)
            best.append(candidate)
            best_m.append(shapes.distance(pair))
            if best_m[-1] < MARGIN_M:
                return best_m[-1]
        order = np.argsort(best_m)[:ELITE]
        best, best_m = [best[index] for index in order], [best_m[index] for index in order]
        spread = np.std(best, axis=0) + 0.01 * (upper - lower)
        drawn = generator.normal(np.mean(best, axis=0), spread, (GENERATION, len(joints)))
        candidates = np.clip(drawn, lower, upper)
    return best_m[0]


def document(found: dict[Pair, str]) -> str:
    """The xacro file."""
    lines = [
        '<?xml version="1.0"?>',
        "<!-- Derived: python -m agibot_twin.collision_pairs (its first lines say how). Do not edit. -->",
        '<robot xmlns:xacro="http://www.ros.org/wiki/xacro">',
        '  <xacro:macro name="g1_collisions" params="prefix">',
        *(
            f'    <disable_collisions link1="${{prefix}}{first}" link2="${{prefix}}{second}" reason="{reason}"/>'
            for (first, second), reason in sorted(found.items())
        ),
        "  </xacro:macro>",
        "</robot>",
    ]
    return "\n".join(lines) + "\n"


def _with_settings(robot: ElementTree.Element) -> str:
    """The URDF with what MuJoCo needs to be told: collision shapes alone, every link a body of its own."""
    whole = ElementTree.fromstring(ElementTree.tostring(robot))
    settings = ElementTree.SubElement(whole, "mujoco")
    ElementTree.SubElement(settings, "compiler", discardvisual="true", fusestatic="false")
    return ElementTree.tostring(whole, encoding="unicode")


def _driver_of(joint: ElementTree.Element) -> tuple[int, float] | None:
    """Column of the driven joint that a joint is or follows, and its share of that one's position."""
    mimic = joint.find("mimic")
    name, share = (
        (joint.get("name"), 1.0) if mimic is None else (mimic.get("joint"), float(mimic.get("multiplier", 1.0)))
    )
    return (DRIVEN_JOINTS.index(name), share) if name in DRIVEN_JOINTS else None


def _let_overlap_by_the_twin(urdf: str) -> list[Pair]:
    return [_pair(exclude.bodyname1, exclude.bodyname2) for exclude in robot_spec(urdf).excludes]


def _pair(first: str, second: str) -> Pair:
    return (first, second) if first < second else (second, first)


if __name__ == "__main__":
    (share_folder() / FILE).write_text(document(reasons(Shapes())))
