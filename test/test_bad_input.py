"""Bad input ends in one clear message that names the thing; the node lives on, and no command is sent."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ament_index_python.packages import get_package_share_directory

from dreamzero_msgs.msg import PolicyStatus
from dreamzero_policy.runtime.contract import load_contract
from dreamzero_policy.runtime.embodiment import save_statistics
from dreamzero_policy.runtime.trained import load_statistics

from .robot import CAMERAS, JOINTS, Bench, bench

pytestmark = pytest.mark.stack
SHARE = Path(get_package_share_directory("dreamzero"))
LOAD_S = 180


@pytest.fixture(scope="class")
def loaded(ros, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with bench(tmp_path_factory.mktemp("policy")) as own:
        own.wait(
            lambda: own.robot.status is not None and own.robot.status.state == PolicyStatus.IDLE, LOAD_S, "idle policy"
        )
        yield own


@pytest.fixture
def stand(loaded: Bench) -> Iterator[Bench]:
    """The loaded node with a robot whose sources are all silent; good again afterwards."""
    robot = loaded.robot
    robot.cameras, robot.names = (), []
    loaded.spin(0.8)
    robot.trajectories.clear()
    robot.chunks.clear()
    robot.size, robot.encoding, robot.positions = (240, 320), "rgb8", []
    yield loaded


def give(own: Bench, cameras=CAMERAS, names=JOINTS, positions=None, size=(240, 320)) -> None:
    own.robot.cameras, own.robot.size = cameras, size
    own.robot.names, own.robot.positions = names, positions or [0.1] * len(names)
    own.robot.prompt("touch the red cube with the left hand")


def names_it(own: Bench, text: str) -> None:
    own.wait(lambda: any(text in line for line in own.robot.status.waiting_for), 5, f"status naming {text!r}")
    own.spin(1.0)
    assert any(text in line for line in own.robot.status.waiting_for)
    assert own.robot.trajectories == [] and own.process.poll() is None


class TestOneNode:
    """One process of policy_node for all of these: it must live through every one of them."""

    def test_a_camera_that_never_publishes_is_named(self, stand: Bench) -> None:
        give(stand, cameras=("head", "hand_right"))
        names_it(stand, "camera hand_left")

    def test_an_image_of_the_wrong_size_is_named_with_both_sizes(self, stand: Bench) -> None:
        give(stand, size=(480, 640))
        names_it(stand, "image is 640 x 480")

    def test_joint_states_that_are_not_numbers_name_the_joint(self, stand: Bench) -> None:
        give(stand, positions=[0.1] * 5 + [float("nan")] + [0.1] * (len(JOINTS) - 6))
        names_it(stand, f"position of {JOINTS[5]} is nan")

    def test_unknown_joints_are_named(self, stand: Bench) -> None:
        give(stand, names=[f"robot2_{joint}" for joint in JOINTS])
        names_it(stand, "joint idx21_arm_l_joint1 is absent")

    def test_the_node_works_once_the_input_is_good_again(self, stand: Bench) -> None:
        give(stand)
        stand.wait(lambda: len(stand.robot.chunks) > 0, 10, "chunk")
        stand.wait(lambda: not stand.robot.status.waiting_for, 2, "status without complaints")


def test_a_raw_image_of_another_encoding_is_named(ros, tmp_path: Path) -> None:
    with bench(tmp_path, image_transport="raw") as own:
        own.robot.encoding = "mono16"
        own.wait(
            lambda: own.robot.status is not None and own.robot.status.state >= PolicyStatus.IDLE, LOAD_S, "idle policy"
        )
        give(own)
        names_it(own, "encoding is 'mono16'")


def refused(own: Bench, *texts: str) -> None:
    own.wait(lambda: own.robot.status is not None and own.robot.status.state == PolicyStatus.FAULT, LOAD_S, "fault")
    for text in texts:
        assert text in own.robot.status.message
    own.robot.prompt("go")
    own.spin(1.0)
    assert own.robot.trajectories == [] and own.process.poll() is None


def test_a_malformed_contract_is_refused_by_field(ros, tmp_path: Path) -> None:
    contract = yaml.safe_load((SHARE / "config" / "agibot_g1.yaml").read_text())
    contract["model"]["action_hz"] = -30
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(contract))
    with bench(tmp_path, contract=tmp_path / "contract.yaml") as own:
        refused(own, "malformed", "model.action_hz")


def test_a_checkpoint_for_another_contract_is_refused_with_the_differing_field(ros, tmp_path: Path) -> None:
    contract = yaml.safe_load((SHARE / "config" / "agibot_g1.yaml").read_text())
    contract["model"]["action_hz"] = 15.0
    (tmp_path / "contract.yaml").write_text(yaml.safe_dump(contract))
    with bench(tmp_path, contract=tmp_path / "contract.yaml") as own:
        refused(own, "trained for contract", "model.action_hz: 15.0 | 30.0")


def test_a_checkpoint_without_weights_is_refused_by_file(ros, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(SHARE / "checkpoints" / "agibot_g1_tiny", checkpoint)
    shutil.rmtree(checkpoint / "transformer")
    with bench(tmp_path, checkpoint=checkpoint) as own:
        refused(own, "transformer")


def test_an_instruction_that_says_nothing_is_refused_and_the_node_lives_on(ros, tmp_path: Path) -> None:
    """Where instructions may be Python literals, as in data sets of several phrasings, an empty list names nothing."""
    checkpoint, contract = tmp_path / "checkpoint", tmp_path / "contract.yaml"
    shipped = SHARE / "checkpoints" / "agibot_g1_tiny"
    shutil.copytree(shipped, checkpoint)
    document = yaml.safe_load((checkpoint / "contract.yaml").read_text())
    document["model"]["prompt"]["literals"] = True
    for path in (contract, checkpoint / "contract.yaml"):
        path.write_text(yaml.safe_dump(document))
    known = load_statistics(shipped, load_contract(shipped / "contract.yaml"))
    save_statistics(checkpoint / "statistics.json", load_contract(contract), known.state, known.action)
    with bench(tmp_path, contract=contract, checkpoint=checkpoint) as own:
        own.wait(
            lambda: own.robot.status is not None and own.robot.status.state == PolicyStatus.IDLE, LOAD_S, "idle policy"
        )
        own.robot.prompt("[]")
        own.spin(1.0)
        assert own.process.poll() is None and own.robot.status.state == PolicyStatus.IDLE
        give(own)
        own.wait(lambda: len(own.robot.chunks) > 0, 10, "chunk")
        own.robot.prompt("()")  # and while it follows another one, which goes on
        own.spin(1.0)
        assert own.process.poll() is None and own.robot.status.state == PolicyStatus.RUNNING
