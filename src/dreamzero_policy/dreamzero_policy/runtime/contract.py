"""The contract: what a checkpoint was trained to see and to command, and what the site it runs on is like.

A contract file has two sections. `model` is what training fixed: views and their order, joint order, units, rates,
frame instants, relative rule, normaliser, prompt template, chunk geometry. The SHA-256 of its canonical JSON is the
contract's hash; a checkpoint carries the contract it was trained with, and one of another hash is refused with the
differing fields. `site` is what an installation may change without retraining: topics, image sizes, tolerances,
limits, controllers.

Everything is checked here, once, on load; the rest of the runtime trusts a `Contract`. Numpy-free, ROS-free.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]
Unit = Literal["rad", "m", "fraction", "opening", "m/s", "rad/s"]  # fraction: 0 open, 1 closed; opening: 1 open
GRIPPER_UNITS = ("fraction", "opening")
HASHED = "hashed"  # serialisation context of the canonical JSON


Section = TypeVar("Section", bound=BaseModel)


class ContractError(ValueError):
    """A contract file that cannot be used, or two contracts that do not fit; the message names the fields."""


class Strict(BaseModel):
    """A frozen section without unknown fields.

    Fields named in `unhashed_defaults` are left out of the hashed text where they have their default, so that contracts
    (and the checkpoints that carry their hash) from before such a field existed keep their hash.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    unhashed_defaults: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        fields = write(self)
        if info.context == HASHED:
            for name in self.unhashed_defaults:
                if getattr(self, name) == type(self).model_fields[name].default:
                    del fields[name]
        return fields


class JointGroup(Strict):
    """Some consecutive entries of the state or action vector: one statistics key, one rule."""

    key: str
    joints: tuple[str, ...] = Field(min_length=1)
    unit: Unit | tuple[Unit, ...]  # one for all joints, or one for each
    relative: bool = False  # actions only: the row is an offset from the state at the observation instant
    commanded: bool = True  # actions only: False is predicted but never sent to the robot

    @model_validator(mode="after")
    def every_joint_has_a_unit(self) -> "JointGroup":
        if len(self.units) != len(self.joints):
            raise ValueError(f"{self.key} has {len(self.joints)} joints and {len(self.units)} units")
        return self

    @property
    def width(self) -> int:
        return len(self.joints)

    @property
    def units(self) -> tuple[Unit, ...]:
        return self.unit if isinstance(self.unit, tuple) else (self.unit,) * self.width


class View(Strict):
    """How a camera image becomes a view: crop, then resize. Width and height are those of a canvas cell.

    `crop` is the share of width and height kept around the centre, where a tile does not name a part of its own.
    """

    unhashed_defaults = ("resize",)

    width_px: Count
    height_px: Count
    crop: Annotated[float, Field(gt=0, le=1)]
    resize: Literal["antialiased_bilinear"] = "antialiased_bilinear"


Share = Annotated[float, Field(ge=0, le=1)]


class Part(Strict):
    """A rectangle of a camera's image, its edges as shares of width and height from the upper left corner."""

    left: Share = 0.0
    top: Share = 0.0
    right: Share = 1.0
    bottom: Share = 1.0

    @model_validator(mode="after")
    def has_an_area(self) -> "Part":
        if not (self.left < self.right and self.top < self.bottom):
            raise ValueError(f"part from {self.left}, {self.top} to {self.right}, {self.bottom} has no area")
        return self


class Tile(Strict):
    """Where a view stands on the canvas, how it fills a tile of several cells, and what it shows of the image.

    `repeated` stretches a view of one cell by repeating its pixel columns; `resized` makes the view itself that large.
    """

    unhashed_defaults = ("rows", "fill", "part")

    camera: str
    row: Annotated[int, Field(ge=0)]
    column: Annotated[int, Field(ge=0)]
    rows: Count = 1
    columns: Count = 1
    fill: Literal["repeated", "resized"] = "repeated"
    part: Part | None = None  # of the image, in place of the centre crop

    @model_validator(mode="after")
    def only_columns_are_repeated(self) -> "Tile":
        if self.rows > 1 and self.fill != "resized":
            raise ValueError(f"the tile of {self.camera} spans {self.rows} rows, so its fill must be resized")
        return self

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Row and column of every cell of the canvas that it covers."""
        return [
            (row, column)
            for row in range(self.row, self.row + self.rows)
            for column in range(self.column, self.column + self.columns)
        ]


class Canvas(Strict):
    """The one image the model sees: views on a grid; cells without a view are black."""

    rows: Count
    columns: Count
    tiles: tuple[Tile, ...] = Field(min_length=1)


class ChunkGeometry(Strict):
    """What one prediction spans, counted in action steps, raw frames and latent frames."""

    actions: Count
    frames: Count
    latent_frames: Count
    chunks_per_window: Count
    frame_offsets_steps: tuple[int, ...]  # instants of a block's frames relative to the observation instant
    first_action_step: Annotated[int, Field(ge=0)]  # row 0 is the command for this many steps after that instant

    @model_validator(mode="after")
    def offsets_form_a_block(self) -> "ChunkGeometry":
        offsets = self.frame_offsets_steps
        if len(offsets) != self.frames or list(offsets) != sorted(set(offsets)) or offsets[-1] != 0:
            raise ValueError(
                f"frame_offsets_steps must be {self.frames} rising steps that end at 0, got {list(offsets)}"
            )
        if offsets[0] <= -self.actions:
            raise ValueError(f"first frame offset {offsets[0]} lies outside the block of {self.actions} steps")
        return self


class Prompt(Strict):
    """How an instruction becomes the text the model was trained with."""

    unhashed_defaults = ("literals",)

    template: str
    lowercase: bool
    literals: bool = False  # an instruction written as a Python list or tuple stands for its first entry

    @model_validator(mode="after")
    def template_has_a_place(self) -> "Prompt":
        if self.template.count("{instruction}") < 1 or re.search(r"[{}]", self.template.replace("{instruction}", "")):
            raise ValueError(f"prompt template must have {{instruction}} and no other braces: {self.template!r}")
        return self


class ModelSection(Strict):
    """What training fixed. Hashed."""

    embodiment: str
    cameras: tuple[str, ...] = Field(min_length=1)
    view: View
    canvas: Canvas
    state: tuple[JointGroup, ...] = Field(min_length=1)
    action: tuple[JointGroup, ...] = Field(min_length=1)
    action_hz: Positive
    chunk: ChunkGeometry
    normaliser: Literal["q99", "q99_wide"]
    prompt: Prompt

    @model_validator(mode="after")
    def names_agree(self) -> "ModelSection":
        tiles = [tile.camera for tile in self.canvas.tiles]
        if sorted(tiles) != sorted(self.cameras):
            raise ValueError(f"canvas tiles {tiles} do not show each of the cameras {list(self.cameras)} once")
        cells = [cell for tile in self.canvas.tiles for cell in tile.cells]
        if len(set(cells)) != len(cells) or any(r >= self.canvas.rows or c >= self.canvas.columns for r, c in cells):
            raise ValueError(f"canvas tiles overlap or leave the {self.canvas.rows} x {self.canvas.columns} grid")
        for name, groups in (("state", self.state), ("action", self.action)):
            joints = [joint for group in groups for joint in group.joints]
            if repeated := sorted({joint for joint in joints if joints.count(joint) > 1}):
                raise ValueError(f"{name} names joints twice: {repeated}")
        states = {group.key: (group.joints, group.units) for group in self.state}
        for group in self.action:
            if group.relative and states.get(group.key) != (group.joints, group.units):
                raise ValueError(f"relative action {group.key!r} has no state group of the same key, joints and units")
        return self

    @property
    def state_joints(self) -> tuple[str, ...]:
        return tuple(joint for group in self.state for joint in group.joints)

    @property
    def commanded_joints(self) -> tuple[str, ...]:
        return tuple(joint for group in self.action if group.commanded for joint in group.joints)

    @property
    def action_width(self) -> int:
        return sum(group.width for group in self.action)

    @property
    def step_s(self) -> float:
        return 1.0 / self.action_hz

    @property
    def canvas_size_px(self) -> tuple[int, int]:
        """(height, width) of the canvas."""
        return self.canvas.rows * self.view.height_px, self.canvas.columns * self.view.width_px

    def tile(self, camera: str) -> Tile:
        """Where this camera's view stands."""
        return next(tile for tile in self.canvas.tiles if tile.camera == camera)

    def crop(self, camera: str) -> float | Part:
        """What its view shows of this camera's image: a share around the centre, or a part."""
        return self.tile(camera).part or self.view.crop

    def view_size_px(self, camera: str) -> tuple[int, int]:
        """(height, width) of this camera's view."""
        tile = self.tile(camera)
        return self.view.height_px * tile.rows, self.view.width_px * (tile.columns if tile.fill == "resized" else 1)


class CameraSite(Strict):
    """A camera as the site has it."""

    topic: str
    frame_id: str
    width_px: Count
    height_px: Count
    rate_hz: Positive  # frames per second; a gap of more than a period and a half between stamps is a lost frame


class JointStatesSite(Strict):
    """The joint states as the site has them."""

    topic: str
    rate_hz: Positive


class Tolerances(Strict):
    """How far a message may be from the instant it stands for, and how long silence may last."""

    frame_s: Positive  # a frame farther than this from its instant is missing
    state_s: Positive  # a joint state farther than this from the observation instant is missing
    silence_s: Positive  # a camera or joint state silent for longer is lost
    tracking: Positive  # [rad, m] a robot at rest farther from its plan than this was moved by something else


class Margin(Strict):
    """What a joint's limits keep in reserve. Both parts add up."""

    absolute: NotNegative = 0.0  # [rad, m] from either end of the range
    fraction: Annotated[float, Field(ge=0, lt=0.5)] = 0.0  # of the range from either end, and of every other limit


class JointLimits(Strict):
    """What a command may ask of a joint, in the joint's own units (rad or m, and s)."""

    lower: Finite
    upper: Finite
    velocity: Positive
    acceleration: Positive
    jerk: Positive  # largest change of acceleration over 10 ms, per second
    step: Positive  # largest difference between a chunk's first row and the plan it takes over from
    margin: Margin = Margin()

    @model_validator(mode="after")
    def range_is_a_range(self) -> "JointLimits":
        if not self.lower < self.upper:
            raise ValueError(f"lower limit {self.lower} is not below upper limit {self.upper}")
        if self._kept >= (self.upper - self.lower) / 2:
            raise ValueError(f"margins of {self._kept:g} leave nothing between {self.lower} and {self.upper}")
        return self

    @property
    def _kept(self) -> float:
        return self.margin.absolute + self.margin.fraction * (self.upper - self.lower)

    @property
    def usable(self) -> "JointLimits":
        """The limits without their margins: what commands are judged by. `step` has none."""
        share = 1 - self.margin.fraction
        return JointLimits(
            lower=self.lower + self._kept,
            upper=self.upper - self._kept,
            velocity=share * self.velocity,
            acceleration=share * self.acceleration,
            jerk=share * self.jerk,
            step=self.step,
        )


class Gripper(Strict):
    """The model's fraction (0 open, 1 closed) against the joint that drives the fingers."""

    open_rad: Finite
    closed_rad: Finite

    @model_validator(mode="after")
    def stops_differ(self) -> "Gripper":
        if self.open_rad == self.closed_rad:
            raise ValueError(f"open_rad and closed_rad are both {self.open_rad}")
        return self


class Controller(Strict):
    """A joint trajectory controller and the joints it takes."""

    name: str
    joints: tuple[str, ...] = Field(min_length=1)


class Box(Strict):
    """A box in the robot's base frame [m]: x forward, y left, z up."""

    lower: tuple[Finite, Finite, Finite]
    upper: tuple[Finite, Finite, Finite]

    @model_validator(mode="after")
    def corners_are_in_order(self) -> "Box":
        if not all(low < high for low, high in zip(self.lower, self.upper, strict=True)):
            raise ValueError(f"lower corner {list(self.lower)} is not below upper corner {list(self.upper)}")
        return self


class RoboArena(Strict):
    """What a server of the RoboArena protocol, DreamZero's own among them, calls the parts of this contract."""

    images: dict[str, str]  # camera -> key of its frames
    state: dict[str, str]  # state group -> key of its entries
    action: tuple[str, ...]  # action groups in the order of an answered row's columns

    @model_validator(mode="after")
    def names_differ(self) -> "RoboArena":
        keys = [*self.images.values(), *self.state.values()]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"roboarena has keys twice: {repeated}")
        if len(set(self.action)) != len(self.action):
            raise ValueError(f"roboarena names action groups twice: {list(self.action)}")
        return self


class SiteSection(Strict):
    """What an installation may change. Not hashed."""

    joint_states: JointStatesSite
    cameras: dict[str, CameraSite]
    tolerances: Tolerances
    limits: dict[str, JointLimits]
    workspace: dict[str, Box] = {}  # hand of the robot's geometry -> where it may be; the others may be anywhere
    self_clearance_m: NotNegative | None = None  # parts of the robot keep this far apart; None is not checked
    grippers: dict[str, Gripper]
    controllers: tuple[Controller, ...] = Field(min_length=1)
    roboarena: RoboArena | None = None  # needed for that protocol only


class Contract(Strict):
    """Both sections, checked against each other."""

    model: ModelSection
    site: SiteSection

    @model_validator(mode="after")
    def site_serves_model(self) -> "Contract":
        model, site = self.model, self.site
        if set(site.cameras) != set(model.cameras):
            raise ValueError(f"site has cameras {sorted(site.cameras)}, the model needs {sorted(model.cameras)}")
        commanded = set(model.commanded_joints)
        driven = [joint for controller in site.controllers for joint in controller.joints]
        if sorted(driven) != sorted(commanded):
            raise ValueError(
                f"controllers must take every commanded joint once; differing: {sorted(commanded ^ set(driven))}"
            )
        if missing := sorted(commanded - set(site.limits)):
            raise ValueError(f"no limits for commanded joints {missing}")
        groups = model.state + model.action
        fractions = {j for g in groups for j, unit in zip(g.joints, g.units, strict=True) if unit in GRIPPER_UNITS}
        if fractions != set(site.grippers):
            raise ValueError(
                f"grippers {sorted(site.grippers)} are not the joints given as a fraction {sorted(fractions)}"
            )
        return self

    @model_validator(mode="after")
    def roboarena_names_everything(self) -> "Contract":
        names, model = self.site.roboarena, self.model
        if names is None:
            return self
        commanded = {group.key for group in model.action if group.commanded}
        for what, named, needed, known in (
            ("images of cameras", set(names.images), set(model.cameras), set(model.cameras)),
            ("state groups", set(names.state), *[{group.key for group in model.state}] * 2),
            ("action groups", set(names.action), commanded, {group.key for group in model.action}),
        ):
            if not needed <= named <= known:
                raise ValueError(f"roboarena names {what} {sorted(named)}, the model has {sorted(needed)}")
        return self

    @property
    def hash(self) -> str:
        """The hash of the model section."""
        return model_hash(self.model)


def model_hash(model: ModelSection) -> str:
    """SHA-256 (hex) of the section's canonical JSON."""
    return hashlib.sha256(canonical_json(model).encode()).hexdigest()


def canonical_json(section: BaseModel) -> str:
    """Sorted keys, no white space, defaults written out (but for late ones): the same meaning gives the same text."""
    document = section.model_dump(mode="json", context=HASHED)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def load_contract(path: Path | str) -> Contract:
    """Read and check a contract file.

    Raises:
        ContractError: the file is missing, is not YAML, or breaks the schema; every offending field is named.
    """
    return validated(Contract, _document(Path(path)), f"contract {path}")


def load_model_section(path: Path | str) -> ModelSection:
    """Read only what training fixed: a checkpoint's `site` is that of another place and another day.

    Raises:
        ContractError: as `load_contract`.
    """
    document = _document(Path(path))
    return validated(ModelSection, document.get("model") if isinstance(document, dict) else None, f"contract {path}")


def _document(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise ContractError(f"contract {path} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ContractError(f"contract {path} is not YAML: {error}") from error


def validated(schema: type[Section], document: Any, source: str) -> Section:
    """A section made of plain data.

    Raises:
        ContractError: the data breaks the schema; every offending field is named.
    """
    try:
        return schema.model_validate(document)
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'contract'}: {e['msg']}" for e in error.errors())
        raise ContractError(f"{source} is malformed: {fields}") from error


def save_contract(contract: Contract, path: Path) -> None:
    """Write a contract so that `load_contract` gives the same one back."""
    path.write_text(yaml.safe_dump(contract.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120))


def differing_fields(ours: ModelSection, theirs: ModelSection) -> list[str]:
    """One line for each leaf of the model section that differs: `path: ours | theirs`."""
    return _differences(ours.model_dump(mode="json"), theirs.model_dump(mode="json"), "model")


def _differences(ours: Any, theirs: Any, path: str) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [
            line
            for key in sorted(ours.keys() | theirs.keys())
            for line in _differences(ours.get(key), theirs.get(key), f"{path}.{key}")
        ]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [
            line
            for i, pair in enumerate(zip(ours, theirs, strict=True))
            for line in _differences(*pair, f"{path}[{i}]")
        ]
    return [] if ours == theirs else [f"{path}: {ours!r} | {theirs!r}"]


def require_same_model(contract: Contract, trained: ModelSection, checkpoint: Path) -> None:
    """Refuse a checkpoint that was trained for another contract.

    Raises:
        ContractError: names every differing field with both values.
    """
    if contract.hash != model_hash(trained):
        lines = "\n  ".join(differing_fields(contract.model, trained))
        raise ContractError(
            f"checkpoint {checkpoint} was trained for contract {model_hash(trained)[:12]}, the node runs "
            f"{contract.hash[:12]}. Differing fields (contract | checkpoint):\n  {lines}\n"
            "Load a checkpoint trained for this contract, or run the node with the checkpoint's own contract.yaml."
        )
