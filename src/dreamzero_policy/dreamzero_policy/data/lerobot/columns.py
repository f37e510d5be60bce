"""Columns: which entries of a data set's vectors are the contract's joints, and in which units.

Joints are found by name: the feature's `names`, or the groups of a GR00T-style `meta/modality.json` by their keys.
Only where a vector has neither is it taken as it stands, and then its length must be the contract's. Units are those
the data set names, those given by the caller, or the contract's; a joint in rad or m becomes the contract's gripper
fraction through the site's stops. What does not fit is refused by name.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.recordings import units
from dreamzero_policy.runtime.contract import GRIPPER_UNITS, Contract, Gripper, JointGroup
from dreamzero_policy.runtime.embodiment import Floats

SUFFIXES = (".pos", ".position")  # LeRobot's own robots write `shoulder.pos`
FACTORS = {("deg", "rad"): math.pi / 180, ("mm", "m"): 1e-3, ("deg/s", "rad/s"): math.pi / 180}


@dataclass(frozen=True)
class Columns:
    """Which entries to take, in the contract's order, and how to scale them."""

    indices: NDArray[np.int64]
    scale: Floats
    offset: Floats
    width: int  # of the data set's vector

    def taken(self, vectors: NDArray) -> Floats:
        """Rows [N, width] of the data set → [N, D] in the contract's units and order."""
        return vectors[:, self.indices].astype(np.float64) * self.scale + self.offset


def columns(
    contract: Contract,
    groups: Sequence[JointGroup],
    feature: Mapping[str, Any],
    where: str,
    renames: Mapping[str, str],
    given_units: Mapping[str, str],
    modality: Mapping[str, Any] | None = None,
) -> Columns:
    """The columns of the contract's groups in one vector feature.

    Args:
        contract: its site has the stops of the grippers.
        groups: the contract's state or action.
        feature: `shape`, `names` and perhaps `units` as `info.json` has them.
        where: data set and field, for the error.
        renames: their name of a joint or group → ours.
        given_units: unit by joint or by key of a group, where it is not the contract's.
        modality: key → `{start, end}` as `modality.json` has them for this vector.

    Raises:
        EpisodeError: a joint is absent or named twice, a group or the vector has another width, a unit cannot be
            converted.
    """
    width = int(np.prod(feature["shape"]))
    joints = [joint for group in groups for joint in group.joints]
    names = [_renamed(name, renames) for name in flat_names(feature.get("names"))]
    if names and len(names) != width:
        raise EpisodeError(f"{where}: {len(names)} names for {width} entries")
    if names and (modality is None or set(joints) <= set(names)):
        indices = _by_name(joints, names, where)
    elif modality is not None:
        indices = _by_group(groups, {_renamed(key, renames): span for key, span in modality.items()}, width, where)
    elif width != len(joints):
        raise EpisodeError(
            f"{where}: {width} columns without names, the contract has {len(joints)} joints; name them in info.json "
            f"(features, names) or in {'modality.json'}"
        )
    else:
        indices = list(range(width))
    own = dict(zip(names, feature.get("units") or (), strict=False))
    scale, offset = np.ones(len(joints)), np.zeros(len(joints))
    keys = [group.key for group in groups for _ in group.joints]
    for i, (joint, key, unit) in enumerate(zip(joints, keys, units(groups), strict=True)):
        theirs = given_units.get(joint) or given_units.get(key) or own.get(joint) or unit
        scale[i], offset[i] = conversion(theirs, unit, contract.site.grippers.get(joint), f"{where}: {joint}")
    return Columns(np.array(indices), scale, offset, width)


def conversion(theirs: str, ours: str, gripper: Gripper | None, where: str) -> tuple[float, float]:
    """(scale, offset) from one unit to another. Raises EpisodeError if there is none."""
    if theirs == ours:
        return 1.0, 0.0
    if (theirs, ours) in FACTORS:
        return FACTORS[theirs, ours], 0.0
    if {theirs, ours} == set(GRIPPER_UNITS):
        return -1.0, 1.0
    if gripper is not None and ours in GRIPPER_UNITS and theirs in ("rad", "m", "deg", "mm"):
        zero, one = gripper.open_rad, gripper.closed_rad
        if ours == "opening":
            zero, one = one, zero
        base = FACTORS.get((theirs, "rad"), FACTORS.get((theirs, "m"), 1.0))
        return base / (one - zero), -zero / (one - zero)
    raise EpisodeError(
        f"{where} is given in {theirs!r}, the contract has {ours!r}: no rule leads from one to the other"
    )


def flat_names(names: Any) -> list[str]:
    """`names` as data sets write them: a list, a list in a list, `{"motors": [...]}` or `{name: index}`."""
    if not names:
        return []
    if isinstance(names, Mapping):
        values = list(names.values())
        if all(isinstance(value, int) for value in values):
            return [name for name, _ in sorted(names.items(), key=lambda item: item[1])]
        names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    if len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    return [str(name) for name in names]


def _renamed(name: str, renames: Mapping[str, str]) -> str:
    if name in renames:
        return renames[name]
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            bare = name.removesuffix(suffix)
            return renames.get(bare, bare)
    return name


def _by_name(joints: Sequence[str], names: Sequence[str], where: str) -> list[int]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise EpisodeError(f"{where}: {twice[0]} is named twice")
    if absent := [joint for joint in joints if joint not in names]:
        raise EpisodeError(
            f"{where}: joint {absent[0]} is absent ({len(absent)} of {len(joints)} are); the data set names "
            f"{', '.join(names)}. Give --rename THEIRS={absent[0]} if it has another name there."
        )
    return [names.index(joint) for joint in joints]


def _by_group(groups: Sequence[JointGroup], spans: Mapping[str, Any], width: int, where: str) -> list[int]:
    indices = []
    for group in groups:
        span = spans.get(group.key)
        if span is None:
            raise EpisodeError(
                f"{where}: modality.json has no group {group.key}, it has {', '.join(spans)}. Give "
                f"--rename THEIRS={group.key} if it has another name there."
            )
        begin, end = int(span["start"]), int(span["end"])
        if end - begin != group.width or end > width:
            raise EpisodeError(
                f"{where}: {group.key} is {begin}:{end} of {width} columns in modality.json, the contract has "
                f"{group.width} joints ({', '.join(group.joints)})"
            )
        indices += range(begin, end)
    return indices
