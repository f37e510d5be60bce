"""Between ROS messages and the runtime's objects: decode images, encode trajectories, chunks and predicted video."""

from array import array
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from builtin_interfaces.msg import Duration as DurationMsg
from builtin_interfaces.msg import Time as TimeMsg
from cv_bridge import CvBridge, CvBridgeError
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float32MultiArray, MultiArrayDimension
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from dreamzero_msgs.msg import ActionChunk
from dreamzero_policy.runtime.chunk import Chunk
from dreamzero_policy.runtime.compressed import CUT_OFF, is_cut_off
from dreamzero_policy.runtime.contract import Controller
from dreamzero_policy.runtime.latency import stages_s
from dreamzero_policy.runtime.observation import NS_PER_S, ObservationError
from dreamzero_policy.runtime.plan import Plan

BRIDGE = CvBridge()
RAW_ENCODINGS = ("rgb8", "bgr8")


def to_ns(stamp: TimeMsg) -> int:
    return stamp.sec * NS_PER_S + stamp.nanosec


def to_stamp(instant_ns: int) -> TimeMsg:
    return TimeMsg(sec=instant_ns // NS_PER_S, nanosec=instant_ns % NS_PER_S)


def decoder(camera: str, message: CompressedImage | Image) -> Callable[[], NDArray[np.uint8]]:
    """A function that decodes this message to RGB [height, width, 3]; it raises ObservationError."""
    return lambda: (_decode_compressed if isinstance(message, CompressedImage) else _decode_raw)(camera, message)


def _decode_compressed(camera: str, message: CompressedImage) -> NDArray[np.uint8]:
    if is_cut_off(memoryview(message.data)):
        raise ObservationError(CUT_OFF.format(camera=camera, form=message.format, count=len(message.data)))
    try:
        image = BRIDGE.compressed_imgmsg_to_cv2(message)
    except Exception as error:  # OpenCV and cv_bridge raise their own kinds for damaged bytes
        raise ObservationError(
            f"camera {camera}: compressed image of format {message.format!r} cannot be decoded: {error}"
        ) from error
    if image is None or image.ndim != 3:
        raise ObservationError(
            f"camera {camera}: compressed image of format {message.format!r}, {len(message.data)} bytes, "
            "is not a colour image"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _decode_raw(camera: str, message: Image) -> NDArray[np.uint8]:
    if message.encoding not in RAW_ENCODINGS:
        raise ObservationError(
            f"camera {camera}: encoding is {message.encoding!r}, expected one of {', '.join(RAW_ENCODINGS)}"
        )
    try:
        return BRIDGE.imgmsg_to_cv2(message, desired_encoding="rgb8")
    except (CvBridgeError, ValueError, TypeError) as error:
        raise ObservationError(f"camera {camera}: raw image cannot be read: {error}") from error


def image_message(image: NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Image:
    """RGB [height, width, 3] as a raw image."""
    height, width, channels = image.shape
    # array.array is the one type the generated setter takes without looking at every byte.
    message = Image(
        height=height, width=width, encoding="rgb8", step=width * channels, data=array("B", image.tobytes())
    )
    message.header.stamp, message.header.frame_id = to_stamp(stamp_ns), frame_id
    return message


def cells_message(cells: NDArray[np.float32]) -> Float32MultiArray:
    """Differences by cell [frame, row, column]."""
    message = Float32MultiArray(data=cells.astype(np.float32).ravel().tolist())
    for axis, name in enumerate(("frame", "row", "column")):
        size = cells.shape[axis]
        stride = int(np.prod(cells.shape[axis:]))
        message.layout.dim.append(MultiArrayDimension(label=name, size=size, stride=stride))
    return message


def trajectory_messages(
    plan: Plan, joints: Sequence[str], controllers: Sequence[Controller], now_ns: int
) -> list[JointTrajectory]:
    """What is left of a plan, one message a controller, in the form that moves alike on every ROS 2 distribution.

    The stamp is zero (begin now, from the present command), the first point lies in the future, every point has
    positions and velocities, the last one is at rest. Points are timed from `now_ns`, the moment of publishing.
    """
    after_ns = (plan.knots_ns - now_ns).tolist()
    times = [DurationMsg(sec=ns // NS_PER_S, nanosec=ns % NS_PER_S) for ns in after_ns]
    messages = []
    for controller in controllers:
        columns = [joints.index(joint) for joint in controller.joints]
        rows = zip(plan.positions[:, columns].tolist(), plan.velocities[:, columns].tolist(), times, strict=True)
        points = [JointTrajectoryPoint(positions=p, velocities=v, time_from_start=time) for p, v, time in rows]
        messages.append(JointTrajectory(joint_names=list(controller.joints), points=points))
    return messages


def chunk_message(chunk: Chunk, joints: Sequence[str], contract_hash: str, checkpoint_hash: str) -> ActionChunk:
    """A chunk with its provenance."""
    block, reply, stages = chunk.block, chunk.reply, stages_s(chunk)
    message = ActionChunk(
        session=chunk.session,
        epoch=chunk.epoch,
        chunk_index=chunk.index,
        prompt=chunk.prompt,
        contract_hash=contract_hash,
        checkpoint_hash=checkpoint_hash,
        noise_seed=reply.seed,
        regime=chunk.regime,
        stream=chunk.stream,
        look_ahead=chunk.look_ahead,
        denoise_steps=reply.steps,
        full_denoise_steps=chunk.full_steps,
        deadline_s=chunk.deadline_s or 0.0,
        denoise_evaluations=reply.evaluations,
        guidance_scale=reply.guidance_scale,
        camera_names=list(block.frame_stamps_ns),
        frames_per_camera=len(next(iter(block.frame_stamps_ns.values()))),
        frame_stamps=[to_stamp(stamp) for stamps in block.frame_stamps_ns.values() for stamp in stamps],
        state_stamp=to_stamp(block.state_stamp_ns),
        state=block.positions.tolist(),
        anchor=chunk.anchor.tolist(),
        joint_names=list(joints),
        steps=len(chunk.positions),
        step_s=chunk.step_s,
        positions=chunk.positions.ravel().tolist(),
        held_rows=reply.held_rows,
        first_row=chunk.first_row,
        start=to_stamp(chunk.start_ns),
        verdict=int(chunk.verdict),
        reason=chunk.reason,
        seam_position_jump=chunk.seam_position_jump,
        seam_velocity_jump=chunk.seam_velocity_jump,
        seam_jerk=chunk.seam_jerk,
        way=chunk.way,
        transport_s=block.transport_s,
        overhead_s=chunk.overhead_s,
        **{f"{stage}_s": seconds for stage, seconds in stages.items()},
    )
    message.header.stamp = to_stamp(block.observation_ns)
    return message
