"""The URDF is one that tools accept: a tree, inertias of a body, frames as ROS means them, no contact at home."""

import json
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from agibot_bringup.description import load_home, load_urdf

LINKS = json.loads((Path(__file__).parent / "published_links.json").read_text())["links"]
CAMERAS = ("head", "hand_left", "hand_right")


@pytest.fixture(scope="module")
def robot() -> ElementTree.Element:
    return ElementTree.fromstring(load_urdf())


def numbers(element: ElementTree.Element | None, key: str, default: str = "0 0 0") -> np.ndarray:
    return np.array((default if element is None else element.get(key, default)).split(), dtype=float)


def inertia(link: ElementTree.Element) -> np.ndarray:
    """[3, 3] about the centre of mass, kg m²."""
    i = {key: float(value) for key, value in link.find("inertial/inertia").attrib.items()}
    return np.array([[i["ixx"], i["ixy"], i["ixz"]], [i["ixy"], i["iyy"], i["iyz"]], [i["ixz"], i["iyz"], i["izz"]]])


def test_links_and_joints_are_one_tree_that_grows_from_the_base(robot: ElementTree.Element) -> None:
    links = [link.get("name") for link in robot.iterfind("link")]
    joints = [joint.get("name") for joint in robot.iterfind("joint")]
    assert Counter(links).most_common(1)[0][1] == Counter(joints).most_common(1)[0][1] == 1
    parent = {joint.find("child").get("link"): joint.find("parent").get("link") for joint in robot.iterfind("joint")}
    assert len(parent) == len(joints)  # no link hangs from two joints
    assert set(parent) | set(parent.values()) == set(links)
    assert set(links) - set(parent) == {"base_link"}
    for link in links:
        steps = 0
        while link != "base_link":
            link, steps = parent[link], steps + 1
            assert steps < len(links), f"{link} hangs from itself"


def test_a_moving_joint_has_a_unit_axis_and_a_range_and_its_link_can_be_moved(robot: ElementTree.Element) -> None:
    links = {link.get("name"): link for link in robot.iterfind("link")}
    for joint in robot.iterfind("joint"):
        if joint.get("type") == "fixed":
            continue
        assert np.linalg.norm(numbers(joint.find("axis"), "xyz")) == pytest.approx(1.0, abs=1e-9)
        limit = {key: float(value) for key, value in joint.find("limit").attrib.items()}
        assert limit["lower"] < limit["upper"] and limit["velocity"] > 0 and limit["effort"] > 0
        assert links[joint.find("child").get("link")].find("inertial") is not None


def test_inertias_are_those_of_a_body(robot: ElementTree.Element) -> None:
    """Positive, and no principal moment larger than the other two together."""
    heavy = [link for link in robot.iterfind("link") if link.find("inertial") is not None]
    assert len(heavy) > 30
    for link in heavy:
        assert float(link.find("inertial/mass").get("value")) > 0
        smallest, middle, largest = np.linalg.eigvalsh(inertia(link))
        assert smallest > 0, link.get("name")
        assert largest <= (smallest + middle) * (1 + 1e-6), link.get("name")


def test_masses_and_inertias_are_the_published_ones(robot: ElementTree.Element) -> None:
    links = {link.get("name"): link for link in robot.iterfind("link")}
    assert len(LINKS) > 30
    for published in LINKS:
        link, i = links[published["name"]], published["inertia_kg_m2"]
        assert float(link.find("inertial/mass").get("value")) == pytest.approx(published["mass_kg"], rel=1e-5)
        assert numbers(link.find("inertial/origin"), "xyz") == pytest.approx(published["com_m"], abs=1e-6)
        wanted = [[i["ixx"], i["ixy"], i["ixz"]], [i["ixy"], i["iyy"], i["iyz"]], [i["ixz"], i["iyz"], i["izz"]]]
        assert inertia(link) == pytest.approx(np.array(wanted), rel=1e-5, abs=1e-12)


@pytest.mark.parametrize("camera", CAMERAS)
def test_an_optical_frame_looks_along_z_and_has_x_to_the_right(robot: ElementTree.Element, camera: str) -> None:
    joint = robot.find(f"joint[@name='{camera}_color_optical_joint']")
    assert joint.find("parent").get("link") == f"{camera}_camera_link"
    (cr, cp, cy), (sr, sp, sy) = (f(numbers(joint.find("origin"), "rpy")) for f in (np.cos, np.sin))
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    optical = about_z @ about_y @ about_x
    ahead, right, down = np.array([1, 0, 0]), np.array([0, -1, 0]), np.array([0, 0, -1])  # in the camera's link
    assert np.allclose(optical.T, [right, down, ahead], atol=1e-12)
    assert not numbers(joint.find("origin"), "xyz").any()


def contacts(robot: ElementTree.Element, moved: dict[str, float]) -> list[tuple[str, str]]:
    """Links whose collision shapes touch, at home but for `moved`; a link and its parent are not looked at."""
    mujoco = pytest.importorskip("mujoco")
    settings = '<mujoco><compiler discardvisual="true" fusestatic="false"/></mujoco></robot>'
    text = ElementTree.tostring(robot, encoding="unicode").replace("</robot>", settings)
    model = mujoco.MjModel.from_xml_string(text)
    data = mujoco.MjData(model)
    values = load_home() | moved
    for joint in robot.iterfind("joint"):
        if (mimic := joint.find("mimic")) is not None:
            values[joint.get("name")] = float(mimic.get("multiplier")) * values[mimic.get("joint")]
    for name, value in values.items():
        data.qpos[model.joint(name).qposadr[0]] = value
    mujoco.mj_forward(model, data)
    body = [model.body(model.geom(geom).bodyid[0]).name for geom in range(model.ngeom)]
    return [(body[contact.geom1], body[contact.geom2]) for contact in data.contact[: data.ncon]]


def test_at_home_no_link_touches_another(robot: ElementTree.Element) -> None:
    assert contacts(robot, {}) == []


def test_an_upper_arm_raised_against_the_head_touches_it(robot: ElementTree.Element) -> None:
    """What says that the test above can fail."""
    raised = {"idx21_arm_l_joint1": 0.0, "idx22_arm_l_joint2": -2.0}
    assert ("arm_l_link3", "head_link2") in contacts(robot, raised)
