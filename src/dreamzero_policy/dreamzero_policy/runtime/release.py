"""What a released checkpoint fixed, said as a contract's model section and statistics.

A release keeps this in three places: `experiment_cfg/conf.yaml` (orders, crop, view size, relative keys, chunk
geometry), `experiment_cfg/metadata.json` (widths, rate, quantiles), and, for each embodiment tag, in code: where the
views stand on the canvas and what the prompt says. The last is `LAYOUTS` here, as data. Everything works on plain
mappings, as yaml and json give them. Facts: dreamzero0/dreamzero at ab790c1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dreamzero_policy.runtime.contract import ContractError, ModelSection, Unit, differing_fields, validated
from dreamzero_policy.runtime.embodiment import Statistics

FRAMES_PER_LATENT = 4  # of the causal video autoencoder, after the first frame


@dataclass(frozen=True)
class Layout:
    """What the original's code holds for one embodiment tag."""

    prompt: str
    tiles: tuple[tuple[int, int, int], ...] = ()  # row, column and columns of view 0, 1, … on a grid of 2 x 2
    units: Mapping[str, Unit | tuple[Unit, ...]] | None = None  # of each key, where it is not rad


_QUARTERS = ((0, 0, 1), (1, 0, 1), (0, 1, 1))
_FOUR_VIEWS = (
    "A multi-view video shows that a robot {instruction} The video is split into four views: The top-left view shows "
    "the camera view from the robot's head, the top-right view shows the camera view from the right hand, the "
    "bottom-left view shows the camera view from the left hand, and the bottom-right view is a black screen (inactive "
    "view). The robot {instruction}"
)
_ONE_VIEW = "A single view video shows that a human {instruction}"

# The prompts are part of the trained interface, word for word.
LAYOUTS: Mapping[str, Layout] = {
    "oxe_droid": Layout(
        "A multi-view video shows that a robot {instruction} The video is split into three views: The top view shows "
        "the camera view from the robot's wrist, the bottom-left view shows the camera view from the left exterior "
        "camera, and the bottom-right view shows the camera view from the right exterior camera. During training, one "
        "of the two bottom exterior views may be a black screen (dropped view). The robot {instruction}",
        tiles=((1, 0, 1), (1, 1, 1), (0, 0, 2)),
        units={"gripper_position": "fraction"},
    ),
    "agibot": Layout(
        _FOUR_VIEWS,
        tiles=_QUARTERS,
        units={
            "left_effector_position": "fraction",
            "right_effector_position": "fraction",
            "waist_position": ("rad", "m"),
            "robot_velocity": ("m/s", "rad/s"),
        },
    ),
    "yam": Layout(
        "A multi-view video shows that a robot {instruction} The video is split into four views: The top-left view "
        "shows the top camera, the top-right view shows the right camera, the bottom-left view shows the left camera, "
        "and the bottom-right view is a black screen. The robot {instruction}",
        tiles=_QUARTERS,
        units={"left_gripper_pos": "opening", "right_gripper_pos": "opening"},
    ),
    "xdof": Layout(_FOUR_VIEWS, tiles=_QUARTERS),
    "gr1_unified": Layout(_ONE_VIEW),  # videos of people; where their one view stands is not known
    "mecka_hands": Layout(_ONE_VIEW),
}


def tags(conf: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """The embodiments a release can serve: those with transforms, modalities and statistics."""
    return sorted(set(conf.get("transforms", {})) & set(conf.get("modality_configs", {})) & set(metadata))


def served(conf: Mapping[str, Any], metadata: Mapping[str, Any]) -> list[str]:
    """Those of `tags` whose canvas layout and prompt are known here."""
    return [tag for tag in tags(conf, metadata) if tag in LAYOUTS and LAYOUTS[tag].tiles]


def release_contract(conf: Mapping[str, Any], metadata: Mapping[str, Any], tag: str) -> ModelSection:
    """The model section of a release for one embodiment.

    Cameras and joints carry the release's own names (`joint_position.0`, …): it knows no robot's.

    Args:
        conf: `experiment_cfg/conf.yaml`.
        metadata: `experiment_cfg/metadata.json`.
        tag: one of `tags(conf, metadata)`, `oxe_droid` for example.

    Raises:
        ContractError: a field is absent, or says something this runtime does not do; the message names it.
    """
    layout = _layout(tag)
    if tag not in tags(conf, metadata):
        raise ContractError(f"the release has no embodiment {tag!r}, only {tags(conf, metadata)}")
    steps = _Transforms(_resolved(_field(conf, f"transforms.{tag}.transforms"), conf), tag)
    cameras = steps.keys("ConcatTransform", "video_concat_order", "video.")
    if len(cameras) != len(layout.tiles):
        raise ContractError(f"{tag}: the layout has {len(layout.tiles)} views, the release names {cameras}")
    modalities = _field(metadata, f"{tag}.modalities")
    rates = {camera: float(_field(modalities, f"video.{camera}.fps")) for camera in cameras}
    if len(set(rates.values())) != 1:
        raise ContractError(f"{tag}: cameras have different rates: {rates}")
    for kind in ("state", "action"):
        steps.require_q99(
            [f"{kind}.{key}" for key in steps.keys("ConcatTransform", f"{kind}_concat_order", f"{kind}.")]
        )
    if (interpolation := steps.field("VideoResize", "interpolation")) != "linear":
        raise ContractError(f"conf.yaml: transforms.{tag} resize by {interpolation!r}, this runtime does 'linear' only")
    relative = _relative_keys(conf)

    def groups(kind: str, relative: Sequence[str] = ()) -> list[dict[str, Any]]:
        return [
            {
                "key": key,
                "joints": _joints(key, _field(modalities, f"{kind}.{key}.shape")[0]),
                "unit": (layout.units or {}).get(key, "rad"),
                "relative": key in relative,
            }
            for key in steps.keys("ConcatTransform", f"{kind}_concat_order", f"{kind}.")
        ]

    actions, latent_frames = int(_field(conf, "num_action_per_block")), int(_field(conf, "num_frame_per_block"))
    frames = FRAMES_PER_LATENT * latent_frames
    stride, rest = divmod(actions, frames)
    if rest:
        raise ContractError(f"{actions} actions do not fall on {frames} frames a block evenly")
    return validated(
        ModelSection,
        {
            "embodiment": tag,
            "cameras": cameras,
            "view": {
                "width_px": steps.field("VideoResize", "width"),
                "height_px": steps.field("VideoResize", "height"),
                "crop": steps.field("VideoCrop", "scale"),
                "resize": "antialiased_bilinear",
            },
            "canvas": {
                "rows": 2,
                "columns": 2,
                "tiles": [
                    {"camera": camera, "row": row, "column": column, "columns": columns}
                    for camera, (row, column, columns) in zip(cameras, layout.tiles, strict=True)
                ],
            },
            "state": groups("state"),
            "action": groups("action", relative),
            "action_hz": rates[cameras[0]],
            "chunk": {
                "actions": actions,
                "frames": frames,
                "latent_frames": latent_frames,
                "chunks_per_window": _field(conf, "max_chunk_size"),
                "frame_offsets_steps": [stride * (i - frames + 1) for i in range(frames)],
                "first_action_step": 0,
            },
            "normaliser": "q99",
            "prompt": {"template": layout.prompt, "lowercase": True, "literals": True},
        },
        f"the release's embodiment {tag}",
    )


def release_statistics(metadata: Mapping[str, Any], tag: str, model: ModelSection) -> Statistics:
    """The quantiles of one embodiment of a release, in the order of a model section with its keys.

    Raises:
        ContractError: the tag, a key or an entry is absent.
    """
    return Statistics.of(_field(metadata, f"{tag}.statistics"), model, f"metadata of the release, {tag}")


def release_differences(ours: ModelSection, released: ModelSection) -> list[str]:
    """One line for each thing training fixed that differs: `path: contract | release`.

    Cameras and joints are compared by their place, since a release names none of a robot's. Units, and what of the
    action is commanded, are the contract's to say.
    """
    document = released.model_dump()
    document["embodiment"] = ours.embodiment
    if len(ours.cameras) == len(released.cameras):
        names = dict(zip(released.cameras, ours.cameras, strict=True))
        document["cameras"] = ours.cameras
        for tile in document["canvas"]["tiles"]:
            tile["camera"] = names[tile["camera"]]
    for kind in ("state", "action"):
        for mine, theirs in zip(getattr(ours, kind), document[kind], strict=False):
            if mine.key == theirs["key"] and mine.width == len(theirs["joints"]):
                theirs |= {"joints": mine.joints, "unit": mine.unit, "commanded": mine.commanded}
    return differing_fields(ours, ModelSection.model_validate(document))


def _layout(tag: str) -> Layout:
    if tag not in LAYOUTS:
        raise ContractError(
            f"embodiment {tag!r} has no layout: which view stands where and what the prompt says is kept in the "
            f"original's code, not in its files. Known: {sorted(LAYOUTS)}. Write a contract for the robot and take the "
            "statistics with Statistics.of."
        )
    return LAYOUTS[tag]


class _Transforms:
    """The chain of `conf.transforms.<tag>`, found by the last part of each `_target_`."""

    def __init__(self, chain: Sequence[Mapping[str, Any]], tag: str) -> None:
        self.tag = tag
        self.chain = chain

    def _steps(self, name: str) -> list[Mapping[str, Any]]:
        return [step for step in self.chain if str(step.get("_target_", "")).endswith(f".{name}")]

    def field(self, name: str, field: str) -> Any:
        for step in self._steps(name):
            if field in step:
                return step[field]
        raise ContractError(f"conf.yaml: transforms.{self.tag} has no {name} with {field}")

    def keys(self, name: str, field: str, prefix: str) -> list[str]:
        return [str(key).removeprefix(prefix) for key in self.field(name, field)]

    def require_q99(self, keys: Sequence[str]) -> None:
        modes: dict[str, str] = {}
        for step in self._steps("StateActionTransform"):
            modes |= step.get("normalization_modes", {})
        if other := {key: modes.get(key) for key in keys if modes.get(key) != "q99"}:
            raise ContractError(f"conf.yaml: transforms.{self.tag} normalise {other}, this runtime does q99 only")


def _relative_keys(conf: Mapping[str, Any]) -> Sequence[str]:
    if conf.get("relative_action_per_horizon"):
        raise ContractError("conf.yaml: relative_action_per_horizon is true; statistics per step are not supported")
    return conf.get("relative_action_keys") or () if conf.get("relative_action") else ()


def _joints(key: str, width: int) -> list[str]:
    return [key] if width == 1 else [f"{key}.{i}" for i in range(width)]


def _field(document: Mapping[str, Any], path: str) -> Any:
    node: Any = document
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            raise ContractError(f"the release's files have no field {path} (at {name!r})")
        node = node[name]
    return _resolved(node, document)


def _resolved(node: Any, conf: Mapping[str, Any]) -> Any:
    """Follow references such as `${image_resolution_width}`, as a training configuration may be saved with them."""
    if isinstance(node, str) and (reference := re.fullmatch(r"\$\{([\w.]+)\}", node)):
        return _field(conf, reference[1])
    if isinstance(node, Mapping):
        return {key: _resolved(value, conf) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(value, conf) for value in node]
    return node
