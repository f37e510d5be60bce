"""The twin behaves as the robot at its table does: reproducibly, on time, and in sight of its cameras."""

import mujoco
import numpy as np
import pytest

from agibot_twin.layout import Layout, sample_layout
from agibot_twin.objects import BY_NAME, OBJECTS, TRAY, TRAY_SIZE_M
from agibot_twin.robot_model import COLLISION_GROUP, DRIVEN_JOINTS
from agibot_twin.scene import TABLE_TOP_Z_M
from agibot_twin.trajectory_controller import JointTarget, Trajectory, TrajectoryPoint
from agibot_twin.world import TwinWorld

S = 1_000_000_000
PASSIVE_GRIPPER_JOINTS = (
    "inner_joint1",
    "inner_joint2",
    "inner_joint3",
    "inner_joint4",
    "outer_joint2",
    "outer_joint3",
    "outer_joint4",
)


@pytest.fixture(scope="module")
def shared_world():
    world = TwinWorld()
    yield world
    world.close()


@pytest.fixture
def world(shared_world: TwinWorld) -> TwinWorld:
    shared_world.reset(0)
    return shared_world


def sinusoid(home: np.ndarray, amplitude: np.ndarray, rate: float) -> Trajectory:
    """Home + amplitude sin(rate t) for 3 s in 30 Hz knots, then back home at rest. Starts 0.5 s after it is taken."""
    points = [TrajectoryPoint(S // 4, JointTarget(home, np.zeros_like(home)))]
    for k in range(91):
        t = k / 30
        state = JointTarget(home + amplitude * np.sin(rate * t), amplitude * rate * np.cos(rate * t))
        points.append(TrajectoryPoint(S // 2 + round(t * S), state))
    points.append(TrajectoryPoint(5 * S, JointTarget(home, np.zeros_like(home))))
    return Trajectory([], points)


def test_the_same_seed_gives_the_same_scene_and_the_same_future(world: TwinWorld) -> None:
    def future(seed: int, pieces: list[float]) -> np.ndarray:
        world.reset(seed)
        arm = world.controllers["dual_arm_controller"]
        target = JointTarget(arm.desired.positions + 0.2, np.zeros(14))
        world.follow("dual_arm_controller", Trajectory(arm.joints, [TrajectoryPoint(S, target)]))
        for piece in pieces:
            world.step(piece)
        return world.simulation.data.qpos.copy()

    once = future(3, [0.5])
    assert np.array_equal(once, future(3, [0.5]))
    assert np.array_equal(once, future(3, [0.1, 0.034, 0.006, 0.36]))  # however its time is cut
    assert not np.array_equal(once, future(4, [0.5]))


@pytest.mark.parametrize("tray", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_bodies_rest_on_the_table_apart_from_each_other(world: TwinWorld, seed: int, tray: bool) -> None:
    layout = sample_layout(np.random.default_rng(seed), tray=tray)
    world.lay_out(layout)
    before = world.object_poses()
    world.step(2.0)
    after = world.object_poses()
    assert set(after) == set(layout.poses)
    assert (TRAY in after) == tray
    half_heights = {TRAY: TRAY_SIZE_M[2] / 2, **{name: thing.half_height_m for name, thing in BY_NAME.items()}}
    for name, pose in after.items():
        assert pose[2] == pytest.approx(TABLE_TOP_Z_M + half_heights[name], abs=2e-3)
        assert np.linalg.norm(pose[:3] - before[name][:3]) < 2e-3
    places = np.array([pose[:2] for pose in after.values()])
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(len(places), 1)]
    assert distances.min() > 0.12


def test_the_robot_stands_still_at_home(world: TwinWorld) -> None:
    world.step(1.0)
    joints = world.observe().joints
    assert joints.positions == pytest.approx(world.simulation.home, abs=1e-4)
    assert np.abs(joints.velocities).max() < 1e-3
    assert joints.efforts.shape == (len(DRIVEN_JOINTS),)


def test_home_is_free_of_collisions_between_links_that_are_not_neighbours(world: TwinWorld) -> None:
    model, data = world.simulation.model, world.simulation.data
    geoms = [geom for geom in range(model.ngeom) if model.geom_group[geom] == COLLISION_GROUP]
    touching = set()
    for i, first in enumerate(geoms):
        for second in geoms[:i]:
            links = [model.body(model.geom_bodyid[geom]).name for geom in (first, second)]
            parents = [model.body(model.body(link).parentid[0]).name for link in links]
            neighbours = links[0] == links[1] or links[0] in parents or links[1] in parents
            one_gripper = links[0][:10] == links[1][:10] and links[0].startswith("gripper")
            if neighbours or one_gripper:
                continue
            if mujoco.mj_geomDistance(model, data, first, second, 0.02, None) < 0.005:
                touching.add(frozenset(links))
    # The published shoulder cylinder reaches into the torso's shape, which is ours.
    assert touching == {frozenset({"body_link2", "arm_l_link1"}), frozenset({"body_link2", "arm_r_link1"})}


def test_the_whole_finger_follows_the_driven_gripper_joint(world: TwinWorld) -> None:
    expected = {
        "inner_joint1": -1,
        "inner_joint2": -1,
        "inner_joint3": 0,
        "inner_joint4": 1,
        "outer_joint2": 1,
        "outer_joint3": 0,
        "outer_joint4": -1,
    }
    gripper = world.controllers["left_gripper_controller"]
    world.follow(gripper.name, Trajectory(gripper.joints, [TrajectoryPoint(S, JointTarget(np.array([0.3])))]))
    world.step(1.5)
    model, data = world.simulation.model, world.simulation.data
    driver = data.joint("idx41_gripper_l_outer_joint1").qpos[0]
    assert driver == pytest.approx(0.3, abs=2e-3)
    values = {
        name: data.joint(joint).qpos[0]
        for joint in (model.joint(i).name for i in range(model.njnt))
        for name in PASSIVE_GRIPPER_JOINTS
        if joint.endswith(f"gripper_l_{name}")
    }
    assert values == pytest.approx({name: sign * driver for name, sign in expected.items()}, abs=5e-3)


@pytest.mark.parametrize(
    "name", ["dual_arm_controller", "head_controller", "waist_controller", "left_gripper_controller"]
)
def test_joints_track_one_radian_per_second_within_five_milliradians(world: TwinWorld, name: str) -> None:
    controller = world.controllers[name]
    columns = [DRIVEN_JOINTS.index(joint) for joint in controller.joints]
    home = world.simulation.home[columns].copy()
    amplitude = np.full(len(home), 0.3)
    if name == "waist_controller":
        amplitude = np.array([0.15, 0.03])  # 0.5 rad/s and 0.1 m/s: its limits
    elif name == "dual_arm_controller":
        home[[3, 10]] -= [0.2, -0.2]  # elbows: at home they are nearer to their stops than the motion is wide
    elif name == "head_controller":
        home[1] -= 0.3
    elif name == "left_gripper_controller":
        home -= 0.39
    rate = 1.0 / 0.3
    motion = sinusoid(home, amplitude, rate)
    world.follow(name, Trajectory(controller.joints, motion.points))
    world.step(0.6)
    worst = 0.0
    for _ in range(280):
        world.step(0.01)
        t = world.now_ns() / S - 0.5
        error = world.observe().joints.positions[columns] - (home + amplitude * np.sin(rate * t))
        worst = max(worst, float(np.abs(error).max()))
    assert worst < 5e-3


def test_cameras_see_the_objects_in_the_colours_of_the_layout(world: TwinWorld) -> None:
    seen = {}
    for colours in (("red", "green", "blue"), ("yellow", "red", "green")):
        places = ((0.5, -0.2), (0.55, 0.0), (0.5, 0.2))
        poses = {
            thing.name: np.array([*place, TABLE_TOP_Z_M + thing.half_height_m, 1.0, 0.0, 0.0, 0.0])
            for thing, place in zip(OBJECTS, places, strict=True)
        }
        world.lay_out(Layout({thing.name: colour for thing, colour in zip(OBJECTS, colours, strict=True)}, poses))
        images = world.observe(images=True).images
        assert {name: image.shape for name, image in images.items()} == dict.fromkeys(
            ("head", "hand_left", "hand_right"), (240, 320, 3)
        )
        red, green, blue = np.moveaxis(images["head"].astype(int), 2, 0)
        seen[colours] = {
            "red": np.count_nonzero((red > 120) & (green < 60) & (blue < 60)),
            "green": np.count_nonzero((green > 90) & (red < 60) & (blue < 90)),
            "blue": np.count_nonzero((blue > 110) & (red < 60) & (green < 90)),
            "yellow": np.count_nonzero((red > 170) & (green > 120) & (blue < 80)),
        }
    for colours, pixels in seen.items():
        assert {colour for colour, count in pixels.items() if count > 60} == set(colours)


def test_a_hand_camera_shows_its_gripper_close(world: TwinWorld) -> None:
    def brightness_between_the_fingers(opening_rad: float) -> float:
        world.reset(2)
        gripper = world.controllers["right_gripper_controller"]
        target = JointTarget(np.array([opening_rad]))
        world.follow(gripper.name, Trajectory(gripper.joints, [TrajectoryPoint(S // 2, target)]))
        world.step(1.0)
        return world.observe(images=True).images["hand_right"][140:200, 150:170].mean()

    assert brightness_between_the_fingers(0.0) < 0.7 * brightness_between_the_fingers(0.785)  # dark pads meet there


@pytest.mark.parametrize("name", [thing.name for thing in OBJECTS])
def test_a_closed_gripper_holds_an_object_while_the_arm_swings(world: TwinWorld, name: str) -> None:
    model, data = world.simulation.model, world.simulation.data
    hand = data.body("gripper_r_center_link")
    address = model.joint(name).qposadr[0]
    data.qpos[address : address + 3] = hand.xpos
    mujoco.mju_mat2Quat(data.qpos[address + 3 : address + 7], hand.xmat)
    gripper, arms = world.controllers["right_gripper_controller"], world.controllers["dual_arm_controller"]
    gravity = model.opt.gravity.copy()
    try:
        model.opt.gravity[:] = 0.0  # the object waits between the fingers
        world.follow(gripper.name, Trajectory(gripper.joints, [TrajectoryPoint(S // 2, JointTarget(np.zeros(1)))]))
        world.step(1.0)
    finally:
        model.opt.gravity[:] = gravity
    home = arms.desired.positions.copy()
    swung = home + 0.3 * np.isin(np.arange(14), (7, 10)) * np.where(np.arange(14) == 7, -1, 1)
    still = np.zeros(14)
    points = [TrajectoryPoint(S, JointTarget(swung, still)), TrajectoryPoint(2 * S, JointTarget(home, still))]
    world.follow(arms.name, Trajectory(arms.joints, points))
    world.step(2.5)
    assert np.linalg.norm(data.qpos[address : address + 3] - hand.xpos) < 0.012  # m


def test_an_unknown_controller_is_named(world: TwinWorld) -> None:
    with pytest.raises(KeyError, match="leg_controller"):
        world.follow("leg_controller", Trajectory([], []))
