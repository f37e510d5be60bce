"""The embodiment: every number and pixel that crosses between one robot and the model, in both directions.

Built from a contract and the statistics of the checkpoint, it is the only place where images become views and canvases,
joint positions become normalised state, normalised rows become absolute joint targets, and an instruction becomes the
prompt. Training, live operation and replay share the very same object. Pure numpy.

Image and number rules are those of DreamZero (dreamzero0/dreamzero at ab790c1): crop, antialiased bilinear resize,
truncation to uint8, quantile normalisation clamped to [-1, 1] on the way in and not clamped on the way out, relative
rows added to the state of the observation instant.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreamzero_policy.runtime.contract import Contract, ContractError, JointGroup, ModelSection

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Quantiles:
    """1 % and 99 % quantiles of one vector, entry by entry, in the contract's units."""

    q01: Floats
    q99: Floats

    def normalise(self, x: Floats) -> Floats:
        """To [-1, 1], clamped as in training; entries whose quantiles coincide pass unchanged before the clamp."""
        width = self.q99 - self.q01
        flat = width == 0
        scaled = 2 * (x - self.q01) / np.where(flat, 1.0, width) - 1
        return np.clip(np.where(flat, x, scaled), -1.0, 1.0)

    def denormalise(self, y: Floats) -> Floats:
        """Inverse without the clamp; entries whose quantiles coincide give that constant."""
        return (y + 1) / 2 * (self.q99 - self.q01) + self.q01


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
        if document.get("contract_hash") != contract.hash:
            raise ContractError(
                f"statistics {path} belong to contract {document.get('contract_hash')!r}, not {contract.hash!r}"
            )
        if document.get("hash") != statistics_hash(document):
            raise ContractError(
                f"statistics {path} were changed: hash is {statistics_hash(document)!r}, "
                f"the file says {document.get('hash')!r}"
            )
        return cls(
            _gather(document, "state", contract.model.state, path),
            _gather(document, "action", contract.model.action, path),
            document["hash"],
        )


def statistics_hash(document: Mapping[str, object]) -> str:
    """SHA-256 (hex) of the canonical JSON of everything but the hash itself."""
    content = {key: value for key, value in document.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def save_statistics(path: Path, contract: Contract, state: Quantiles, action: Quantiles) -> None:
    """Write quantiles of whole vectors so that `Statistics.load` gives them back."""
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
    path.write_text(json.dumps(document, indent=1) + "\n")


def _gather(document: Mapping, name: str, groups: Sequence[JointGroup], path: Path) -> Quantiles:
    table = document.get(name, {})
    vectors = []
    for quantile in ("q01", "q99"):
        parts = []
        for group in groups:
            values = np.asarray(table.get(group.key, {}).get(quantile, []), dtype=np.float64)
            if values.shape != (group.width,) or not np.isfinite(values).all():
                raise ContractError(
                    f"statistics {path}: {name}.{group.key}.{quantile} must be {group.width} finite numbers, "
                    f"got {values.tolist()}"
                )
            parts.append(values)
        vectors.append(np.concatenate(parts))
    if (vectors[1] < vectors[0]).any():
        raise ContractError(f"statistics {path}: {name} has q99 below q01")
    return Quantiles(*vectors)


class Embodiment:
    """All transforms of one contract and one set of statistics."""

    def __init__(self, contract: Contract, statistics: Statistics) -> None:
        self.contract = contract
        self.statistics = statistics
        model = contract.model
        commanded, relative, column = [], [], 0
        for group in model.action:
            columns = np.arange(column, column + group.width)
            column += group.width
            if group.relative:
                relative.append((columns, np.array([model.state_joints.index(joint) for joint in group.joints])))
            if group.commanded:
                commanded.append(columns)
        self._commanded = np.concatenate(commanded)
        self._relative = relative
        self._resize: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32], slice, slice]] = {}

    # Text

    def prompt(self, instruction: str) -> str:
        """The text the model was trained with for this instruction."""
        rule = self.contract.model.prompt
        text = instruction.strip()
        return rule.template.format(instruction=text.lower() if rule.lowercase else text)

    # Images

    def view(self, image: Image) -> Image:
        """Camera image [height, width, 3] → view [view height, view width, 3], both RGB."""
        rows, columns, crop_rows, crop_columns = self._resize_for(image.shape[0], image.shape[1])
        cropped = image[crop_rows, crop_columns].astype(np.float32) / 255
        height, width, channels = cropped.shape
        low = (rows @ cropped.reshape(height, -1)).reshape(-1, width, channels)
        return (columns @ low * 255).astype(np.uint8)

    def canvas(self, views: Mapping[str, Image]) -> Image:
        """Views [T, view height, view width, 3] of every camera → canvas [T, height, width, 3]."""
        model = self.contract.model
        height, width = model.view.height_px, model.view.width_px
        frames = len(next(iter(views.values())))
        canvas = np.zeros((frames, *model.canvas_size_px, 3), np.uint8)
        for tile in model.canvas.tiles:
            top, left = tile.row * height, tile.column * width
            canvas[:, top : top + height, left : left + width * tile.columns] = np.repeat(
                views[tile.camera], tile.columns, axis=2
            )
        return canvas

    def _resize_for(self, height: int, width: int):
        if (height, width) not in self._resize:
            view = self.contract.model.view
            crop_height, crop_width = int(view.crop * height), int(view.crop * width)
            top, left = round((height - crop_height) / 2), round((width - crop_width) / 2)
            self._resize[height, width] = (
                antialiased_bilinear(crop_height, view.height_px),
                antialiased_bilinear(crop_width, view.width_px),
                slice(top, top + crop_height),
                slice(left, left + crop_width),
            )
        return self._resize[height, width]

    # Numbers

    def state(self, positions: Mapping[str, float]) -> Floats:
        """Joint positions by name [rad, m] → state vector [D] in the contract's units and order."""
        joints = self.contract.model.state_joints
        return self._fractions(np.array([positions[joint] for joint in joints]), joints)

    def normalised_state(self, state: Floats) -> NDArray[np.float32]:
        """State [..., D] in the contract's units → [-1, 1]."""
        return self.statistics.state.normalise(state).astype(np.float32)

    def positions(self, rows: NDArray, anchor: Floats) -> Floats:
        """Normalised action rows [H, ≥ A] and the state [D] at the observation instant → joint targets [H, J].

        J are the contract's commanded joints, in rad and m. Columns beyond A are the network's padding.
        """
        actions = self.statistics.action.denormalise(rows[:, : self.contract.model.action_width].astype(np.float64))
        for columns, state_columns in self._relative:
            actions[:, columns] += anchor[state_columns]
        return self._radians(actions[:, self._commanded], self.contract.model.commanded_joints)

    def at_stops(self, positions: Floats) -> Floats:
        """Joint targets [H, J] with grippers kept between their stops, beyond which a fraction means nothing."""
        positions = positions.copy()
        for joint, gripper in self.contract.site.grippers.items():
            column = self.contract.model.commanded_joints.index(joint)
            positions[:, column] = np.clip(positions[:, column], *sorted((gripper.open_rad, gripper.closed_rad)))
        return positions

    def normalised_actions(self, actions: Floats, anchor: Floats) -> NDArray[np.float32]:
        """Actions [H, A] in the contract's units, state [D] at the anchor → normalised rows: what training sees."""
        rows = actions.copy()
        for columns, state_columns in self._relative:
            rows[:, columns] -= anchor[state_columns]
        return self.statistics.action.normalise(rows).astype(np.float32)

    def _fractions(self, x: Floats, joints: Sequence[str]) -> Floats:
        for i, joint in enumerate(joints):
            if gripper := self.contract.site.grippers.get(joint):
                x[..., i] = (x[..., i] - gripper.open_rad) / (gripper.closed_rad - gripper.open_rad)
        return x

    def _radians(self, x: Floats, joints: Sequence[str]) -> Floats:
        for i, joint in enumerate(joints):
            if gripper := self.contract.site.grippers.get(joint):
                x[..., i] = gripper.open_rad + x[..., i] * (gripper.closed_rad - gripper.open_rad)
        return x


def camera_view(canvas: Image, model: ModelSection, camera: str) -> Image:
    """One camera's view [..., view height, view width, 3] cut out of a canvas [..., height, width, 3]."""
    view = model.view
    place = next(tile for tile in model.canvas.tiles if tile.camera == camera)
    top, left = place.row * view.height_px, place.column * view.width_px
    return canvas[..., top : top + view.height_px, left : left + view.width_px * place.columns : place.columns, :]


def antialiased_bilinear(size_in: int, size_out: int) -> NDArray[np.float32]:
    """Weights [size_out, size_in] of a triangle filter that widens with the scale when shrinking.

    The rule of PIL and of torch's `interpolate(mode="bilinear", antialias=True)`: each row sums to 1.
    """
    scale = size_in / size_out
    support = max(scale, 1.0)
    centres = (np.arange(size_out) + 0.5) * scale
    distance = np.abs(np.arange(size_in)[None, :] + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
