"""The embodiment: every number and pixel that crosses between one robot and the model, in both directions.

`Transforms` is the model's side, what a contract's model section and a checkpoint's statistics fix: images become views
and a canvas, an instruction the prompt, states and actions in the contract's units become normalised vectors and back.
`Embodiment` is `Transforms` on a site: joint positions by name, grippers in radians. Training, live operation and
replay share the very same objects; no rule here depends on a robot's name. Pure numpy.

Number rules are those of DreamZero (dreamzero0/dreamzero at ab790c1): quantile normalisation clamped to [-1, 1] on the
way in (a part of the numbers the networks were trained with) and not clamped on the way out, relative rows added to the
state of the observation instant. Rows that a plan gives back to the model are not clamped either. The original also
fills an absent joint state with zeros, answers with zeros where it finds no action, and repeats frames that have not
come; here each of these is an error.
"""

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.canvas import Image, canvas_of, view_of
from dreamzero_policy.runtime.contract import Contract, ContractError, JointGroup, ModelSection
from dreamzero_policy.runtime.policy import ActionPrefix

Floats = NDArray[np.float64]


LARGEST: Mapping[str, float] = {"q99": 1.0, "q99_wide": 4.0}  # normalised value of each normaliser


@dataclass(frozen=True)
class Quantiles:
    """1 % and 99 % quantiles of one vector, entry by entry, in the contract's units.

    Both ways compute in the precision of what they are given: the original's numbers in float32 as in float64.
    """

    q01: Floats
    q99: Floats

    def normalise(self, x: NDArray, *, largest: float = 1.0) -> NDArray:
        """Quantiles to -1 and 1, clamped at ±`largest`; entries whose quantiles coincide pass unchanged before that."""
        q01, q99 = self._as(x)
        flat = q99 == q01
        scaled = 2 * (x - q01) / np.where(flat, 1, q99 - q01) - 1
        return np.clip(np.where(flat, x, scaled), -largest, largest)

    def denormalise(self, y: NDArray) -> NDArray:
        """Inverse without the clamp; entries whose quantiles coincide give that constant."""
        q01, q99 = self._as(y)
        return (y + 1) / 2 * (q99 - q01) + q01

    def _as(self, x: NDArray) -> tuple[NDArray, NDArray]:
        precision = np.result_type(x, np.float32)
        return self.q01.astype(precision), self.q99.astype(precision)


@dataclass(frozen=True)
class Statistics:
    """Quantiles of state and action as a checkpoint carries them, in the order of the contract's groups."""

    state: Quantiles
    action: Quantiles
    hash: str

    @classmethod
    def load(cls, path: Path, contract: Contract) -> "Statistics":
        """Read `statistics.json`: `{contract_hash, hash, state: {key: {q01, q99}}, action: {…}}`.

        Raises:
            ContractError: a key is missing, has another width than the contract's group, is not finite, or the file's
                hash or contract hash does not fit.
        """
        try:
            document = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ContractError(f"statistics {path} cannot be read: {error}") from error
        return cls.checked(document, contract, f"statistics {path}")

    @classmethod
    def checked(cls, document: Mapping[str, Any], contract: Contract, source: str) -> "Statistics":
        """From the content of `statistics.json`. Raises as `load`; `source` names the document."""
        if document.get("contract_hash") != contract.hash:
            raise ContractError(f"{source} belong to contract {document.get('contract_hash')!r}, not {contract.hash!r}")
        if document.get("hash") != statistics_hash(document):
            raise ContractError(
                f"{source} were changed: hash is {statistics_hash(document)!r}, "
                f"the document says {document.get('hash')!r}"
            )
        return cls.of(document, contract.model, source, document["hash"])

    @classmethod
    def of(cls, tables: Mapping[str, Any], model: ModelSection, source: str, digest: str = "") -> "Statistics":
        """Gather `{state: {key: {q01, q99, …}}, action: {…}}` in the order of the contract's groups.

        The tables are those of `statistics.json` and those of a release's `metadata.json` under
        `<embodiment tag>.statistics`; quantities other than the quantiles are left aside.

        Args:
            tables: plain mappings of numbers.
            model: whose keys, widths and order.
            source: what to call the tables in an error.
            digest: the hash to carry; without one, that of the tables.

        Raises:
            ContractError: a key is absent, has another width than the contract's group, is not finite, or has q99 below
                q01.
        """
        state = _gather(tables, "state", model.state, source)
        return cls(state, _gather(tables, "action", model.action, source), digest or statistics_hash(tables))


def statistics_hash(document: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the canonical JSON of everything but the hash itself."""
    content = {key: value for key, value in document.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_statistics(path: Path, contract: Contract, state: Quantiles, action: Quantiles) -> None:
    """Write quantiles of whole vectors so that `Statistics.load` gives them back."""
    path.write_text(json.dumps(statistics_document(contract, state, action), indent=1) + "\n")


def statistics_document(contract: Contract, state: Quantiles, action: Quantiles) -> dict[str, object]:
    """What `Statistics.checked` takes for quantiles of whole vectors."""
    document: dict[str, object] = {"contract_hash": contract.hash}
    for name, quantiles, groups in (("state", state, contract.model.state), ("action", action, contract.model.action)):
        ends = np.cumsum([group.width for group in groups])
        document[name] = {
            group.key: {
                "q01": quantiles.q01[end - group.width : end].tolist(),
                "q99": quantiles.q99[end - group.width : end].tolist(),
            }
            for group, end in zip(groups, ends, strict=True)
        }
    document["hash"] = statistics_hash(document)
    return document


def _gather(tables: Mapping[str, Any], name: str, groups: Sequence[JointGroup], source: str) -> Quantiles:
    table = tables.get(name) or {}
    vectors = []
    for quantile in ("q01", "q99"):
        parts = []
        for group in groups:
            if quantile not in (table.get(group.key) or {}):
                raise ContractError(f"{source}: {name}.{group.key}.{quantile} is absent; {name} has {sorted(table)}")
            values = np.asarray(table[group.key][quantile], dtype=np.float64)
            if values.shape != (group.width,) or not np.isfinite(values).all():
                raise ContractError(
                    f"{source}: {name}.{group.key}.{quantile} must be {group.width} finite numbers "
                    f"({', '.join(group.joints)}), got {values.size}: {values.tolist()}"
                )
            parts.append(values)
        vectors.append(np.concatenate(parts))
    if (vectors[1] < vectors[0]).any():
        raise ContractError(f"{source}: {name} has q99 below q01")
    return Quantiles(*vectors)


class Transforms:
    """What one model section and one set of statistics fix. Knows no site: units are the contract's."""

    def __init__(self, model: ModelSection, statistics: Statistics) -> None:
        self.model = model
        self.statistics = statistics
        self._largest = LARGEST[model.normaliser]
        ends = np.cumsum([group.width for group in model.action])
        columns = [np.arange(end - group.width, end) for group, end in zip(model.action, ends, strict=True)]
        groups = list(zip(model.action, columns, strict=True))
        self._commanded = np.concatenate([where for group, where in groups if group.commanded])
        self._relative = [
            (where, np.array([model.state_joints.index(joint) for joint in group.joints]))
            for group, where in groups
            if group.relative
        ]

    def prompt(self, instruction: str) -> str:
        """The text the model was trained with for this instruction. White space is the tokenizer's to clean."""
        rule = self.model.prompt
        text = unpacked(instruction) if rule.literals else instruction
        return rule.template.format(instruction=text.lower() if rule.lowercase else text)

    def view(self, camera: str, image: Image) -> Image:
        """This camera's image [height, width, 3] → its view [view height, view width, 3], both RGB."""
        return view_of(image, self.model.crop(camera), self.model.view_size_px(camera))

    def canvas(self, views: Mapping[str, Image]) -> Image:
        """Views [T, view height, view width, 3] of every camera → canvas [T, height, width, 3]."""
        return canvas_of(views, self.model)

    def picture(self, images: Mapping[str, Image]) -> Image:
        """Images [height, width, 3] of every camera at one instant → canvas [height, width, 3]."""
        return self.canvas({camera: self.view(camera, images[camera])[None] for camera in self.model.cameras})[0]

    def normalised_state(self, state: Floats) -> NDArray[np.float32]:
        """State [..., D] in the contract's units → [-1, 1]."""
        return self.statistics.state.normalise(state, largest=self._largest).astype(np.float32)

    def actions(self, rows: NDArray, anchor: Floats) -> Floats:
        """Normalised rows [..., H, ≥ A] and the state [..., D] at the observation instant → actions [..., H, A].

        In the contract's units, relative groups added to the anchor. Columns beyond A are the network's padding.

        Raises:
            ValueError: fewer than A columns, or an anchor of another width than D.
        """
        width, joints = self.model.action_width, len(self.model.state_joints)
        if rows.shape[-1] < width or anchor.shape[-1] != joints:
            raise ValueError(
                f"rows {rows.shape} need at least {width} columns and the anchor {anchor.shape} needs {joints}"
            )
        actions = self.statistics.action.denormalise(rows[..., :width]).astype(np.float64)
        for columns, state_columns in self._relative:
            actions[..., columns] += anchor[..., None, state_columns]
        return actions

    def normalised_actions(self, actions: Floats, anchor: Floats, *, clamped: bool = True) -> NDArray[np.float32]:
        """Actions [..., H, A] in the contract's units, state [..., D] at the anchor → rows: what training sees.

        Not ``clamped``: what the numbers are, however far they lie outside of what training sees.
        """
        rows = actions.copy()
        for columns, state_columns in self._relative:
            rows[..., columns] -= anchor[..., None, state_columns]
        largest = self._largest if clamped else np.inf
        return self.statistics.action.normalise(rows, largest=largest).astype(np.float32)

    def as_actions(self, states: Floats) -> Floats:
        """States [..., D] as targets → actions [..., A], in the contract's units; what is never commanded is zero."""
        actions = np.zeros((*states.shape[:-1], self.model.action_width))
        joints = self.model.state_joints
        actions[..., self._commanded] = states[..., [joints.index(joint) for joint in self.model.commanded_joints]]
        return actions


class Embodiment(Transforms):
    """All transforms of one contract and one set of statistics, on the contract's site."""

    def __init__(self, contract: Contract, statistics: Statistics) -> None:
        super().__init__(contract.model, statistics)
        self.contract = contract
        model = contract.model
        units = {j: unit for g in (*model.state, *model.action) for j, unit in zip(g.joints, g.units, strict=True)}
        self._stops = {  # the joint's positions where the model says 0 and 1
            joint: (ends.open_rad, ends.closed_rad) if units[joint] == "fraction" else (ends.closed_rad, ends.open_rad)
            for joint, ends in contract.site.grippers.items()
        }

    def state(self, positions: Mapping[str, float]) -> Floats:
        """Joint positions by name [rad, m] → state vector [D] in the contract's units and order."""
        joints = self.model.state_joints
        x = np.array([positions[joint] for joint in joints], dtype=np.float64)
        for i, joint in enumerate(joints):
            if stops := self._stops.get(joint):
                x[i] = (x[i] - stops[0]) / (stops[1] - stops[0])
        return x

    def joint_positions(self, state: Floats) -> dict[str, float]:
        """State vector [D] in the contract's units → joint positions by name [rad, m]: the inverse of `state`."""
        positions = dict(zip(self.model.state_joints, map(float, state), strict=True))
        for joint, stops in self._stops.items():
            if joint in positions:
                positions[joint] = stops[0] + positions[joint] * (stops[1] - stops[0])
        return positions

    def positions(self, rows: NDArray, anchor: Floats) -> Floats:
        """Normalised action rows [H, ≥ A] and the state [D] at the observation instant → joint targets [H, J].

        J are the contract's commanded joints, in rad and m.
        """
        return self.commanded(self.actions(rows, anchor))

    def commanded(self, actions: Floats) -> Floats:
        """Actions [..., A] in the contract's units → targets [..., J] of the commanded joints in rad and m."""
        targets = actions[..., self._commanded]
        for i, joint in enumerate(self.model.commanded_joints):
            if stops := self._stops.get(joint):
                targets[..., i] = stops[0] + targets[..., i] * (stops[1] - stops[0])
        return targets

    def prefix(self, targets: Floats, anchor: Floats, soft_rows: int = 0) -> ActionPrefix:
        """Targets [k, J] of the commanded joints in rad and m, state [D] at the chunk's anchor → its first rows.

        The inverse of :meth:`positions` and, like it, not clamped. What is not commanded is left to the model.
        """
        targets = targets.copy()
        for i, joint in enumerate(self.model.commanded_joints):
            if stops := self._stops.get(joint):
                targets[:, i] = (targets[:, i] - stops[0]) / (stops[1] - stops[0])
        actions = np.zeros((len(targets), self.model.action_width))
        actions[:, self._commanded] = targets
        rows = self.normalised_actions(actions, anchor, clamped=False)
        return ActionPrefix(rows[:, self._commanded], self._commanded, soft_rows)

    def at_stops(self, positions: Floats) -> Floats:
        """Joint targets [H, J] with grippers kept between their stops, beyond which a fraction means nothing."""
        positions = positions.copy()
        for joint, stops in self._stops.items():
            column = self.model.commanded_joints.index(joint)
            positions[:, column] = np.clip(positions[:, column], *sorted(stops))
        return positions


def without_statistics(contract: Contract) -> Embodiment:
    """For pictures, joint positions and raw numbers, which need no statistics; what it normalises means nothing."""
    state, action = (
        Quantiles(np.zeros(width), np.ones(width))
        for width in (len(contract.model.state_joints), contract.model.action_width)
    )
    return Embodiment(contract, Statistics(state, action, ""))


def unpacked(instruction: str) -> str:
    """An instruction written as a Python literal: the first entry of a list or tuple, the text of any other literal.

    Some data sets store several phrasings as one string; what does not parse is an instruction as it stands.

    Raises:
        ValueError: the list is empty.
    """
    try:
        literal = ast.literal_eval(instruction)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return instruction
    if isinstance(literal, (list, tuple)):
        if not literal:
            raise ValueError(f"instruction {instruction!r} is an empty list; give at least one phrasing")
        return str(literal[0])
    return str(literal)
