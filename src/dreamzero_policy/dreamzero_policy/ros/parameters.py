"""The parameters of policy_node: name, default, unit, range and effect of each. config/policy.yaml shows them all."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from dreamzero_policy.inference.remote.settings import ENCODINGS, LANGUAGES, RemoteSettings, RemoteSettingsError
from dreamzero_policy.runtime.audience import OBSERVERS
from dreamzero_policy.runtime.loop_settings import LoopSettings
from dreamzero_policy.runtime.outputs import OUTPUTS
from dreamzero_policy.runtime.regime import REGIMES, WAYS
from dreamzero_policy.runtime.surprise import ACTIONS, SurpriseSettings


@dataclass(frozen=True)
class Parameter:
    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(
            name=self.name,
            description=self.description,
            additional_constraints=f"one of: {', '.join(self.choices)}" if self.choices else "",
        )
        if self.low is not None and isinstance(self.default, int) and not isinstance(self.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=0)]
        elif self.low is not None and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high, step=0.0)]
        return descriptor


PARAMETERS = (
    Parameter("contract", "", "Path of the contract file; empty takes config/agibot_g1.yaml of the installed stack."),
    Parameter(
        "checkpoint",
        "",
        "Path of the checkpoint folder; empty takes checkpoints/agibot_g1_tiny of the installed stack.",
    ),
    Parameter(
        "tokenizer",
        "",
        "Folder of the tokenizer's files, which released checkpoints do not contain; empty takes tokenizer/ in the "
        "checkpoint, if the model needs one.",
    ),
    Parameter("base_checkpoint", "", "What an adapters-only (LoRA) checkpoint was trained on; empty for a whole one."),
    Parameter("embodiment_tag", "", "Embodiment of a released checkpoint; empty takes the only one that fits."),
    Parameter(
        "backend",
        "local",
        "Where the model runs: in a process beside this node, or on a server.",
        choices=("local", "remote"),
    ),
    Parameter(
        "server_url",
        "",
        "With backend remote: ws://HOST:PORT, or wss:// for TLS; http://HOST:PORT or https:// of a fleet's desk, which "
        "says where the servers are.",
    ),
    Parameter(
        "server_protocol",
        "own",
        "What the server speaks: own, as dreamzero serve does, or official, as DreamZero's released server does.",
        choices=LANGUAGES,
    ),
    Parameter("server_token_file", "", "File with the token that the server asks for; read at every connecting."),
    Parameter("server_ca_file", "", "With wss://: certificates (PEM) to trust in place of the system's."),
    Parameter(
        "image_encoding",
        "raw",
        "How frames go to the server with protocol own: raw and png lose nothing, jpeg does, with jpeg_quality.",
        choices=ENCODINGS,
    ),
    Parameter("jpeg_quality", 95, "With image_encoding jpeg: libjpeg's quality.", 1, 100),
    Parameter(
        "link_timeout_s",
        3.0,
        "A network that carries nothing to the server and back for so long is cut [s].",
        1.0,
        60.0,
    ),
    Parameter(
        "server_period_s",
        0.0,
        "With protocol own: how often a chunk is asked for, which is what the server promises or refuses [s]; 0 takes "
        "the regime's own period. Longer ones are let in where the model is slower than that, and wait at rest.",
        0.0,
        600.0,
    ),
    Parameter("server_timeout_s", 30.0, "A goal is aborted when the server is away for longer [s].", 0.1, 3600.0),
    Parameter("autostart", False, "Configure and activate without a lifecycle manager."),
    Parameter(
        "prompt", "", "Instruction to follow on activation and on ~/start; empty waits for ~/prompt or ~/run_policy."
    ),
    Parameter(
        "image_transport",
        "compressed",
        "How images are subscribed. raw at best effort was measured to lose half its "
        "frames at 640x480: see docs/how-to/images.md.",
        choices=("compressed", "raw"),
    ),
    Parameter(
        "output",
        "controllers",
        "controllers: a message for each of them, on <controller>/joint_trajectory. gate: one message with all joints, "
        "on wanted/joint_trajectory, which the safety gate takes or refuses as a whole.",
        choices=OUTPUTS,
    ),
    Parameter("require_controllers", True, "Wait until somebody listens on every topic of `output` before observing."),
    Parameter(
        "observers",
        list(OBSERVERS),
        "With require_controllers: nodes that listen there and play nothing, by name or shell pattern.",
    ),
    Parameter(
        "require_estop",
        False,
        "Nothing moves before the topic estop was heard to be released, and its silence is a stop.",
    ),
    Parameter("estop_timeout_s", 0.5, "With require_estop: longest silence on estop [s].", 0.05, 60.0),
    Parameter(
        "frozen_camera_s",
        1.0,
        "A camera whose bytes stay the same over so much motion of the robot is frozen [s]; 0 switches this off.",
        0.0,
        60.0,
    ),
    Parameter("clock_step_s", 0.05, "A system clock that is set by more than this starts a new epoch [s].", 0.02, 60.0),
    Parameter(
        "clock_jump_s",
        0.5,
        "A simulated clock that goes forwards by more than this at once starts a new epoch [s]; backwards by any step.",
        0.02,
        60.0,
    ),
    Parameter("device", "cpu", "Torch device of the model."),
    Parameter(
        "dtype",
        "auto",
        "Precision of the model; auto takes the faster of the two, measured when it is loaded.",
        choices=("auto", "float32", "bfloat16"),
    ),
    Parameter("threads", 1, "Threads of the model's process on a CPU.", 1, 256),
    Parameter("denoise_steps", 0, "Solver steps per chunk; 0: as many as the checkpoint says.", 0, 64),
    Parameter(
        "deadline_steps",
        False,
        "Halve the denoising steps, down to 1, of a chunk that would come after the end of the rows in hand. Fewer "
        "steps were not shown to be as good.",
    ),
    Parameter(
        "noise_seed",
        1140,
        "Seed of the noise that chunks are denoised from.",
        0,
        2**31 - 1,
    ),
    Parameter(
        "fresh_noise",
        True,
        "Every chunk of an epoch starts from noise of its own, noise_seed plus 7919 times its number; false: all from "
        "the same, "
        "as in DreamZero. Chunks from the same noise err to the same side, and the robot drifts.",
    ),
    Parameter(
        "regime",
        "stop_and_go",
        "How inference and motion share time; auto chooses by measured latency.",
        choices=("auto", *REGIMES),
    ),
    Parameter(
        "overlap",
        "auto",
        "How chunks overlap: two_sessions up to a latency of half a chunk, look_ahead up to a whole one; auto takes "
        "two_sessions where both are free of gaps.",
        choices=("auto", *WAYS),
    ),
    Parameter(
        "slowest_speed_share",
        0.5,
        "Slowest playback in regime slowed, as a share of the trained speed; slower ones are left to stop_and_go.",
        0.4,
        1.0,
    ),
    Parameter(
        "prefix_conditioning",
        False,
        "Give the model the rows that are executed until its answer can take over; it continues them. Only where "
        "chunks overlap (two_sessions).",
    ),
    Parameter(
        "prefix_soft_mask",
        True,
        "With prefix_conditioning: also draw the chunk towards the rows in hand behind those, each less than the one "
        "before.",
    ),
    Parameter(
        "lead_s",
        0.06,
        "Least time from a decision to the first row of its chunk [s]; below first_point_s rows come too late.",
        0.0,
        1.0,
    ),
    Parameter(
        "first_point_s",
        0.05,
        "How far ahead the first point of a trajectory lies [s]; 0.05 to 0.17 is gentle on controllers.",
        0.02,
        0.5,
    ),
    Parameter(
        "inference_timeout_s",
        10.0,
        "A model that has not answered for so long is a fault; a server is then connected to anew [s].",
        0.1,
        600.0,
    ),
    Parameter(
        "smoothing_window",
        47,
        "Samples of the filter over a chunk, at twice the action rate; odd. The paper has 21 for its 14B model; wider "
        "takes out more of a small model's noise and more of its detail.",
        5,
        191,
    ),
    Parameter(
        "stopping_rows",
        3,
        "Of each chunk in stop_and_go its last rows, in which the robot stops instead. 0: it stops behind the last "
        "one, beyond where that leads.",
        0,
        12,
    ),
    Parameter(
        "blend_s",
        [0.2, 0.35, 0.6],
        "Cross-fade times into a chunk [s], tried in order until the limits allow one.",
    ),
    Parameter(
        "limit_easing_share",
        0.5,
        "Rows that lead beyond a joint's range by up to this share of its step (in the contract) bend off before its "
        "end instead of being refused, and the chunk's way says which joints. 0: such a chunk is rejected, and a "
        "policy that asks for the same again stays where it is.",
        0.0,
        1.0,
    ),
    Parameter(
        "observation_timeout_s", 2.0, "A goal is aborted when an observation is missing for longer [s].", 0.1, 60.0
    ),
    Parameter(
        "max_plan_s",
        1.5,
        "Longest trajectory sent [s]: how long the robot moves on if this node is killed. A chunk whose plan would be "
        "longer is rejected; where none can be shorter configure fails.",
        0.2,
        60.0,
    ),
    Parameter(
        "surprise_action",
        "none",
        "What follows when the cameras see something else than was predicted: nothing, a warning, or the robot comes "
        "to rest. All but none need the checkpoint's surprise.json, see docs/how-to/surprise.md.",
        choices=ACTIONS,
    ),
    Parameter("surprise_percentile", 99.0, "A block beyond this percentile of normal runs is surprising.", 50.0, 100.0),
    Parameter("surprise_blocks", 1, "So many surprising blocks in a row are too much.", 1, 100),
    Parameter(
        "surprise_hold_s",
        1.0,
        "With surprise_action hold: how long the robot rests before it looks anew [s]; beyond observation_timeout_s a "
        "goal is aborted.",
        0.1,
        600.0,
    ),
    Parameter("max_consecutive_rejections", 10, "A goal is aborted after so many rejected chunks in a row.", 1, 1000),
    Parameter("load_timeout_s", 300.0, "Longest time for loading and warming up the model [s].", 1.0, 3600.0),
    Parameter("status_rate_hz", 5.0, "Rate of ~/status [Hz].", 0.1, 50.0),
)


class ParameterError(ValueError):
    """A parameter has a value that cannot be used; the message names it."""


@dataclass(frozen=True)
class Parameters:
    """The values the node runs with; what the loop takes from them is in `loop`."""

    contract: Path
    checkpoint: Path
    tokenizer: Path | None
    base_checkpoint: Path | None
    embodiment_tag: str
    backend: str
    server: RemoteSettings | None  # with backend remote
    server_period_s: float
    server_timeout_s: float
    autostart: bool
    prompt: str
    image_transport: str
    output: str
    require_controllers: bool
    observers: tuple[str, ...]
    require_estop: bool
    estop_timeout_s: float
    frozen_camera_s: float
    clock_step_s: float
    clock_jump_s: float
    device: str
    dtype: str
    threads: int
    loop: LoopSettings
    observation_timeout_s: float
    surprise: SurpriseSettings
    max_consecutive_rejections: int
    load_timeout_s: float
    status_rate_hz: float


def declare(node: Node) -> None:
    """Declare all parameters; rclpy refuses values of the wrong type or out of range."""
    for parameter in PARAMETERS:
        node.declare_parameter(parameter.name, parameter.default, parameter.descriptor())


def read(node: Node, share: Path) -> Parameters:
    """The present values, with defaults resolved against the installed stack's share folder.

    Raises:
        ParameterError: a choice that does not exist, or times that contradict each other.
    """
    values = {parameter.name: node.get_parameter(parameter.name).value for parameter in PARAMETERS}
    for parameter in PARAMETERS:
        if parameter.choices and values[parameter.name] not in parameter.choices:
            raise ParameterError(
                f"parameter {parameter.name} is {values[parameter.name]!r}, "
                f"expected one of {', '.join(parameter.choices)}"
            )
    if not values["blend_s"] or any(b <= 0 for b in values["blend_s"]):
        raise ParameterError(f"parameter blend_s is {list(values['blend_s'])}, expected one or more positive times")
    if values["smoothing_window"] % 2 == 0:
        raise ParameterError(f"parameter smoothing_window is {values['smoothing_window']}, expected an odd number")
    if values["lead_s"] < values["first_point_s"]:
        raise ParameterError(f"parameter lead_s {values['lead_s']} is below first_point_s {values['first_point_s']}")
    values.update(
        server=_server(values),
        contract=Path(values["contract"] or share / "config" / "agibot_g1.yaml"),
        checkpoint=Path(values["checkpoint"] or share / "checkpoints" / "agibot_g1_tiny"),
        tokenizer=Path(values["tokenizer"]) if values["tokenizer"] else None,
        base_checkpoint=Path(values["base_checkpoint"]) if values["base_checkpoint"] else None,
        loop=LoopSettings.of(values),
        observers=tuple(values["observers"]),
        surprise=SurpriseSettings(
            *(values[f"surprise_{name}"] for name in ("action", "percentile", "blocks", "hold_s"))
        ),
    )
    return Parameters(**{own.name: values[own.name] for own in fields(Parameters)})


def _server(values: dict[str, Any]) -> RemoteSettings | None:
    """The server's settings; None with a local model. Raises ParameterError."""
    url, protocol, token, ca = (values[f"server_{name}"] for name in ("url", "protocol", "token_file", "ca_file"))
    encoding, quality, link_s = (values[name] for name in ("image_encoding", "jpeg_quality", "link_timeout_s"))
    if values["backend"] == "local":
        if url:
            raise ParameterError(f"parameter server_url is {url!r} with backend local: set backend to remote")
        return None
    try:
        server = RemoteSettings(
            url,
            protocol,
            Path(token) if token else None,
            Path(ca) if ca else None,
            encoding,
            quality,
            values["inference_timeout_s"],
            link_s,
        )
        server.headers(), server.tls()  # whether the files can be read
    except RemoteSettingsError as error:
        raise ParameterError(f"with backend remote {error}") from error
    return server
