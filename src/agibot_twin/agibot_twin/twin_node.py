"""The twin as a ROS 2 node: the robot's own interface, so that nothing downstream can tell the two apart.

Publishes    joint_states                               100 Hz
             <camera>/color/image_raw/compressed        JPEG, always
             <camera>/color/image_raw, …/camera_info    while somebody listens
             /clock                                     with publish_clock
             /diagnostics                               1 Hz: real-time factor, late ticks, skipped pictures, the
                                                        scene's own task and how far it has been done
Subscribes   <controller>/joint_trajectory
Serves       ~/reset                                    home pose, scene by the parameter `seed`; answers with the
                                                        scene's own task, in words

With hardware_topics it is the hardware of a ros2_control outside and has no controllers of its own: it publishes
robot_joint_states in place of joint_states, and takes positions from robot_joint_commands, where NaN leaves a joint as
it is.

Three threads: the main one spins the executor, one runs physics and joint states in the clock's rhythm, one renders.
Stamps are the instants of the state shown. By default the twin lives on the node's clock. With publish_clock it makes
time itself: simulated time starts at zero, waits for every picture to be rendered, and runs at most real_time_factor
times as fast as real time.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from agibot_twin import messages
from agibot_twin.cameras import Image as Picture
from agibot_twin.cameras import Intrinsics
from agibot_twin.episodes import sample_episode
from agibot_twin.pacing import FactorPacer, WallClockPacer
from agibot_twin.render_thread import RenderThread
from agibot_twin.set_points import CommandRefused
from agibot_twin.simulation import STEP_NS
from agibot_twin.tasks import Judge
from agibot_twin.trajectory_controller import TrajectoryRefused
from agibot_twin.world import CYCLE_NS, TwinWorld
from dreamzero_policy.runtime.allocator import keep_freed_memory
from dreamzero_policy.runtime.interruption import interruption

IMAGE_SIZES = {320: (320, 240), 640: (640, 480)}
LATE_NS = 5_000_000  # an instant published later than this counts as late

# Everything is offered reliable: a reliable subscriber would silently receive nothing from a best-effort publisher.
SENSOR = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
COMMAND = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)

# name: (default, description, allowed (lowest, highest) or None, read only)
PARAMETERS = {
    "seed": (0, "Seed of the scene and its task; takes effect at ~/reset.", (0, 2**31 - 1), False),
    "image_width": (
        320,
        "Width of the pictures [px]: 320 (320x240) or 640 (640x480, about 2.5 times the CPU time).",
        (320, 640),
        True,
    ),
    "camera_rate_hz": (
        30.0,
        "Pictures per second of each camera [Hz]. All cameras share their instants.",
        (1.0, 60.0),
        True,
    ),
    "jpeg_quality": (
        90,
        "Quality of the compressed pictures [1 … 100]; 90 gives about 11 kB at 320x240.",
        (1, 100),
        False,
    ),
    "publish_clock": (False, "Make simulated time and publish it on /clock; others then set use_sim_time.", None, True),
    "real_time_factor": (
        1.0,
        "With publish_clock: how many times faster than real time to run at most; 0 is as fast "
        "as the CPU allows, which outruns a policy that needs time to think.",
        (0.0, 1000.0),
        True,
    ),
    "hardware_topics": (
        False,
        "Be the hardware of a ros2_control outside, on robot_joint_commands and robot_joint_states, without own "
        "controllers.",
        None,
        True,
    ),
    "frame_prefix": (
        "",
        "Put before the frames of pictures, with its slash: those on /tf have it too.",
        None,
        True,
    ),
    "viewer": (False, "Open MuJoCo's interactive viewer (needs a display).", None, True),
}


class ParameterError(ValueError):
    """A parameter has a value that cannot be used; the message names it."""


class TwinNode(Node):
    """A `TwinWorld` on topics."""

    def __init__(self) -> None:
        super().__init__("twin")
        self._declare_parameters()
        self._simulated_time: bool = self.get_parameter("publish_clock").value
        self._wall = Clock(clock_type=ClockType.SYSTEM_TIME)  # the node's own would follow /clock under use_sim_time
        self._world = TwinWorld(
            seed=self._value("seed"), image_size=self._image_size(), hardware=self._value("hardware_topics")
        )
        self._set_task()
        self._pacer = (
            FactorPacer(self._value("real_time_factor")) if self._simulated_time else WallClockPacer(self._wall_ns)
        )
        self._create_endpoints()
        self._count = dict.fromkeys(("late_ticks", "skipped_pictures", "refused_trajectories", "refused_commands"), 0)
        self._stop = threading.Event()
        self._reset_asked = threading.Event()
        self._reset_done = threading.Event()
        self._rate_origin: tuple[int, float] | None = None
        self.fault: Exception | None = None  # what ended the loop, if not a request
        self._renderer = RenderThread(
            self._world.simulation.model, self._world.cameras, self._world.image_size, self._publish_pictures
        )
        self._viewer = self._open_viewer() if self._value("viewer") else None
        self._loop = threading.Thread(target=self._run, name="physics", daemon=True)
        self._loop.start()
        self.get_logger().info(
            f"twin ready: {', '.join(self._world.cameras)} {self._world.image_size[0]}x{self._world.image_size[1]} "
            f"at {self._value('camera_rate_hz'):g} Hz, seed {self._value('seed')}, "
            + (f"simulated time up to {self._value('real_time_factor'):g}x" if self._simulated_time else "real time")
        )

    # set-up

    def _declare_parameters(self) -> None:
        for name, (default, description, allowed, read_only) in PARAMETERS.items():
            descriptor = ParameterDescriptor(name=name, description=description, read_only=read_only)
            if allowed is not None and isinstance(default, int):
                descriptor.integer_range = [IntegerRange(from_value=allowed[0], to_value=allowed[1], step=0)]
            elif allowed is not None:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=allowed[0], to_value=allowed[1], step=0.0)
                ]
            self.declare_parameter(name, default, descriptor)

    def _value(self, name: str) -> bool | int | float | str:
        return self.get_parameter(name).value

    def _image_size(self) -> tuple[int, int]:
        width = self._value("image_width")
        if width not in IMAGE_SIZES:
            raise ParameterError(f"parameter image_width is {width}, allowed are {sorted(IMAGE_SIZES)}")
        return IMAGE_SIZES[width]

    def _create_endpoints(self) -> None:
        hardware = self._value("hardware_topics")
        states = "robot_joint_states" if hardware else "joint_states"
        self._joint_publisher = self.create_publisher(JointState, states, SENSOR)
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", SENSOR)
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", SENSOR) if self._simulated_time else None
        self._compressed, self._raw, self._info, self._intrinsics, self._frames = {}, {}, {}, {}, {}
        for name, optics in self._world.cameras.items():
            topic = f"{name}/color/image_raw"
            self._compressed[name] = self.create_publisher(CompressedImage, f"{topic}/compressed", SENSOR)
            self._raw[name] = self.create_publisher(Image, topic, SENSOR)
            self._info[name] = self.create_publisher(CameraInfo, f"{name}/color/camera_info", SENSOR)
            self._intrinsics[name] = Intrinsics.of(optics, self._world.image_size)
            self._frames[name] = f"{self._value('frame_prefix')}{optics.optical_frame}"
        for name in self._world.controllers:
            self.create_subscription(
                JointTrajectory, f"{name}/joint_trajectory", partial(self._on_trajectory, name), COMMAND
            )
        if hardware:
            self.create_subscription(JointState, "robot_joint_commands", self._on_command, COMMAND)
        self.create_service(Trigger, "~/reset", self._on_reset)

    def _open_viewer(self) -> Any:
        if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            raise ParameterError("parameter viewer is true, but there is no display (DISPLAY is not set)")
        import mujoco.viewer

        return mujoco.viewer.launch_passive(self._world.simulation.model, self._world.simulation.data)

    # requests, in the executor's thread

    def _on_trajectory(self, controller: str, message: JointTrajectory) -> None:
        try:
            self._world.follow(controller, messages.trajectory(message))
        except TrajectoryRefused as refusal:
            self._count["refused_trajectories"] += 1
            self.get_logger().error(f"trajectory refused: {refusal}")

    def _on_command(self, message: JointState) -> None:
        try:
            self._world.command(message.name, message.position)
        except CommandRefused as refusal:
            self._count["refused_commands"] += 1
            self.get_logger().error(f"command refused: {refusal}", throttle_duration_sec=1.0)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._reset_done.clear()
        self._reset_asked.set()
        response.success = self._reset_done.wait(timeout=10.0)
        response.message = self._episode.instruction if response.success else "the twin's loop does not answer"
        return response

    # the loop, in its own thread

    def _run(self) -> None:
        try:
            self._begin(self._wall_ns() if not self._simulated_time else 0)
            while not self._stop.is_set():
                if self._reset_asked.is_set():
                    self._reset()
                self._next_instant()
        except Exception as error:
            self.fault = error
        self._stop.set()

    def _begin(self, epoch_ns: int) -> None:
        """Start counting instants from `epoch_ns`."""
        self._world.epoch_ns = epoch_ns
        self._ticks = self._pictures = self._seconds = 0
        self._rate_origin = None

    def _reset(self) -> None:
        next_ns = self._world.now_ns() + CYCLE_NS  # stamps keep rising
        self._world.reset(self._value("seed"))
        self._set_task()
        self._begin(next_ns if self._simulated_time else max(next_ns, self._wall_ns()))
        self._reset_asked.clear()
        self._reset_done.set()

    def _set_task(self) -> None:
        """The task that belongs to the scene, judged from now on."""
        self._episode = sample_episode("seen", self._value("seed"))
        self._judge = Judge(self._episode.task, self._episode.layout, self._world.situation())

    def _next_instant(self) -> None:
        """Compute the next instant ahead of its time, wait for it, publish it."""
        world = self._world
        tick_ns = self._ticks * CYCLE_NS
        picture_ns = round(self._pictures * 1e9 / self._value("camera_rate_hz") / STEP_NS) * STEP_NS
        instant_ns = world.epoch_ns + min(tick_ns, picture_ns)
        world.advance_to(instant_ns)
        self._wait_for(instant_ns)
        if tick_ns <= picture_ns:
            self._ticks += 1
            self._judge.watch(world.situation())
            if self._clock_publisher is not None:
                self._clock_publisher.publish(ClockMessage(clock=messages.to_time(world.now_ns())))
            self._joint_publisher.publish(
                messages.joint_state(world.now_ns(), world.joint_names, world.simulation.joints())
            )
        if picture_ns <= tick_ns:
            self._pictures += 1
            self._offer_picture()
        if instant_ns - world.epoch_ns >= self._seconds * messages.NS_PER_S:
            self._seconds += 1
            self._publish_diagnostics()

    def _wait_for(self, instant_ns: int) -> None:
        while (wait_s := self._pacer.wait_s(instant_ns)) > 0 and not self._stop.is_set():
            lost_ns = self._pacer.lost_ns(instant_ns)
            if lost_ns:
                break
            time.sleep(wait_s)
        if -wait_s * messages.NS_PER_S > LATE_NS and not self._simulated_time:
            self._count["late_ticks"] += 1
        lost_ns = self._pacer.lost_ns(instant_ns)
        if lost_ns:
            self._skip(lost_ns)

    def _skip(self, lost_ns: int) -> None:
        """The wall clock is elsewhere: go there, standing still, since the robot would have to jump after its plans."""
        self.get_logger().warning(f"the wall clock is {lost_ns / 1e9:+.3f} s away: going on there, holding still")
        for controller in self._world.controllers.values():
            controller.hold()
        self._world.epoch_ns += lost_ns
        self._rate_origin = None

    def _offer_picture(self) -> None:
        if self._renderer.error is not None:
            raise self._renderer.error
        # Simulated time waits for its pictures; real time cannot.
        if not self._renderer.offer(self._world.scene_state(), wait=self._simulated_time) and not self._stop.is_set():
            self._count["skipped_pictures"] += 1
        if self._viewer is not None:
            self._viewer.sync()

    def _publish_diagnostics(self) -> None:
        world_ns, now = self._world.now_ns(), time.monotonic()
        if self._rate_origin is None:
            self._rate_origin = (world_ns, now)
            return
        origin_ns, origin = self._rate_origin
        factor = (world_ns - origin_ns) / 1e9 / (now - origin)
        self._rate_origin = (world_ns, now)
        behind = not self._simulated_time and factor < 0.95
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if behind else DiagnosticStatus.OK,
            name=f"{self.get_name()}: simulation",
            message="slower than real time" if behind else "running",
            hardware_id="agibot_g1_twin",
            values=[
                KeyValue(key="real_time_factor", value=f"{factor:.3f}"),
                *(KeyValue(key=key, value=str(count)) for key, count in self._count.items()),
                KeyValue(key="pictures", value=str(self._pictures)),
                KeyValue(key="seed", value=str(self._value("seed"))),
                KeyValue(key="task", value=self._episode.instruction),
                KeyValue(key="task_progress", value=f"{self._judge.progress:.3f}"),
                KeyValue(key="task_success", value=str(self._judge.success).lower()),
            ],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = messages.to_time(world_ns)
        self._diagnostics_publisher.publish(array)

    # pictures, in the renderer's thread

    def _publish_pictures(self, stamp_ns: int, pictures: dict[str, Picture]) -> None:
        quality = self._value("jpeg_quality")
        for name, picture in pictures.items():
            frame_id = self._frames[name]
            self._compressed[name].publish(messages.compressed_image(stamp_ns, frame_id, picture, quality))
            if self._raw[name].get_subscription_count():
                self._raw[name].publish(messages.raw_image(stamp_ns, frame_id, picture))
            if self._info[name].get_subscription_count():
                self._info[name].publish(messages.camera_info(stamp_ns, frame_id, self._intrinsics[name]))

    def _wall_ns(self) -> int:
        return self._wall.now().nanoseconds

    # the end

    @property
    def running(self) -> bool:
        """False once the loop has ended."""
        return not self._stop.is_set()

    def close(self) -> None:
        """End loop and renderer; publishers stay until the node is destroyed."""
        self._stop.set()
        self._loop.join()
        self._renderer.close()
        if self._viewer is not None:
            self._viewer.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node until a signal ends it. Exit status 1 if the twin cannot start or its loop fails."""
    keep_freed_memory()
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    asked_to_stop = interruption()
    node = None
    try:
        node = TwinNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while node.running and not asked_to_stop.is_set():
            executor.spin_once(timeout_sec=0.2)
        if node.fault is not None:
            raise node.fault
        return 0
    except (RuntimeError, ParameterError, ParameterException) as error:
        print(f"twin: {error}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    sys.exit(main())
