"""A lookout on a robot, and a service whose answers are given by hand. Time is moved by hand too."""

from collections.abc import Callable, Sequence

import numpy as np

from agibot_bringup.safety_gate.trajectory import Point, Received
from agibot_bringup.state_validity.lookout import Lookout, Question, Settings
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Floats
from dreamzero_policy.runtime.observation import NS_PER_S

BEGIN_NS = 1_000 * NS_PER_S
SERVICE = "/check_state_validity"
SETTINGS = Settings(horizon_s=1.0, step_s=0.1, period_s=0.1, timeout_s=0.2)


class Scene:
    def __init__(self, contract: Contract) -> None:
        self.ns = BEGIN_NS
        self.lookout = Lookout(contract, SETTINGS, SERVICE)
        self.joints = contract.model.commanded_joints
        self.controllers = contract.site.controllers
        self.pose = np.linspace(0.1, 0.3, len(self.joints))
        self.asked: list[Question] = []
        self.feel()

    def feel(self) -> None:
        self.lookout.ahead.hear_joint_states(self.joints, self.pose.tolist(), self.ns)

    def pass_time(self, seconds: float) -> None:
        self.ns += round(seconds * NS_PER_S)
        self.feel()

    def send(self, reach: float, seconds: float, controller: int = 0) -> None:
        """A controller is sent to go all its joints further by `reach`, evenly but for the end."""
        own = self.controllers[controller].joints
        start = self.pose[[self.joints.index(joint) for joint in own]]
        speed = reach / seconds
        points = [
            Point(round(share * seconds * NS_PER_S), (start + share * reach).tolist(), [speed * (share < 1)] * len(own))
            for share in (0.05, 0.5, 1.0)
        ]
        self.hear(Received(own, points))

    def hear(self, received: Received) -> None:
        self.lookout.hear_trajectory(received, self.ns, self.ns)

    def question(self, offered: bool = True) -> Question | None:
        question = self.lookout.question(offered, self.ns, self.ns)
        if question is not None:
            self.asked.append(question)
        return question

    def answer(self, question: Question, why_not: str | None = None) -> None:
        self.lookout.hear_answer(question.number, why_not, self.ns, self.ns)

    def look(self, why_not: Callable[[Floats], str | None] = lambda _: None) -> Sequence[Floats]:
        """A look, or what is left of it, answered at once; what was asked about."""
        asked = []
        while (question := self.question()) is not None:
            asked.append(question.positions)
            self.answer(question, why_not(question.positions))
        return asked

    @property
    def said(self) -> tuple[str, str]:
        return self.lookout.state.value, self.lookout.text
