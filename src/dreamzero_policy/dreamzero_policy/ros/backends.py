"""Where the node's model is: in a process of its own beside the node, or on a server. The loop knows no difference."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from dreamzero_policy.inference.protocol import official
from dreamzero_policy.inference.remote.policy import RemotePolicy
from dreamzero_policy.inference.remote.roboarena import RoboArenaDialogue
from dreamzero_policy.inference.remote.sessions import Seat, SessionDialogue
from dreamzero_policy.inference.worker import Ready, WorkerPolicy
from dreamzero_policy.ros.parameters import ParameterError, Parameters
from dreamzero_policy.runtime.calibration import CALIBRATION_FILE, Calibration
from dreamzero_policy.runtime.contract import Contract
from dreamzero_policy.runtime.embodiment import Embodiment, Statistics
from dreamzero_policy.runtime.regime import STOP_AND_GO, TWO_SESSIONS
from dreamzero_policy.runtime.served import ServedEmbodiment
from dreamzero_policy.runtime.surprise import NONE
from dreamzero_policy.runtime.trained import load_statistics

LOCAL, REMOTE = BACKENDS = ("local", "remote")


@dataclass(frozen=True, eq=False)
class Served:
    """What a backend says once it is ready."""

    embodiment: Embodiment
    checkpoint_hash: str  # empty where a server does not say
    introduction: str  # one line for a person
    steps: int  # of the solver, for every chunk that has time
    calibration: Calibration | None = None


class Backend(Protocol):
    policy: WorkerPolicy | RemotePolicy
    sends_images: bool  # whether the policy wants the cameras' own images
    inference_timeout_s: float  # after which the loop itself takes a silent policy for lost

    def wait_until_ready(self, interrupted: Callable[[], bool], progress: Callable[[str], None]) -> Served:
        """Block until it is. Raises what makes configuring fail."""


def backend_of(settings: Parameters, contract: Contract) -> Backend:
    """Begin to load, or to connect.

    Raises:
        ParameterError, ContractError: the settings or the checkpoint do not fit the contract.
    """
    return LocalBackend(settings, contract) if settings.backend == LOCAL else RemoteBackend(settings, contract)


class LocalBackend:
    """A worker process with the model."""

    sends_images = False

    def __init__(self, settings: Parameters, contract: Contract) -> None:
        self._settings, self._contract = settings, contract
        self._statistics = load_statistics(settings.checkpoint, contract, settings.embodiment_tag)
        self.inference_timeout_s = settings.loop.inference_timeout_s
        self.policy = WorkerPolicy(
            settings.checkpoint,
            tokenizer=settings.tokenizer,
            base=settings.base_checkpoint,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            steps=settings.loop.steps or None,
        )

    def wait_until_ready(self, interrupted: Callable[[], bool], progress: Callable[[str], None]) -> Served:
        ready = self.policy.wait_until_ready(self._settings.load_timeout_s, interrupted)
        path = self._settings.checkpoint / CALIBRATION_FILE
        return Served(
            Embodiment(self._contract, self._statistics),
            ready.checkpoint_hash,
            _introduction(ready, self._contract.hash),
            ready.steps,
            Calibration.load(path) if path.is_file() else None,
        )


class RemoteBackend:
    """A server, through one of its two protocols. What it is away for is the policy's matter, not the loop's."""

    inference_timeout_s = float("inf")

    def __init__(self, settings: Parameters, contract: Contract) -> None:
        self._settings, self._contract = settings, contract
        self._official = settings.server.language == "official"
        self.sends_images = self._official
        if self._official:
            _require_what_it_can(settings)
            self.policy = RemotePolicy(settings.server, lambda server: RoboArenaDialogue(server, contract))
        else:
            seat, asks = Seat(), replace(settings.server, period_s=_period_s(settings, contract))
            self.policy = RemotePolicy(asks, lambda server: SessionDialogue(server, contract, seat))

    def wait_until_ready(self, interrupted: Callable[[], bool], progress: Callable[[str], None]) -> Served:
        ready = self.policy.wait_until_ready(self._settings.load_timeout_s, interrupted, progress)
        steps = self._settings.loop.steps or ready.steps
        if self._official:
            names = official.Names.of(self._contract.model, self._contract.site.roboarena)
            embodiment: Embodiment = ServedEmbodiment(self._contract, names.action)
            return Served(embodiment, ready.checkpoint_hash, ready.introduction, steps)
        place = self._settings.server.place
        statistics = Statistics.checked(ready.statistics, self._contract, f"statistics of {place}")
        embodiment, calibration = Embodiment(self._contract, statistics), None
        if ready.calibration is not None:
            calibration = Calibration.checked(ready.calibration, f"calibration of {place}")
        return Served(embodiment, ready.checkpoint_hash, ready.introduction, steps, calibration)


def _period_s(settings: Parameters, contract: Contract) -> float:
    """How often a chunk will be asked for: what the server reckons with."""
    if settings.server_period_s:
        return settings.server_period_s
    chunk_s = contract.model.chunk.actions * contract.model.step_s
    return min(chunk_s / 2 if mode.way == TWO_SESSIONS else chunk_s for mode in settings.loop.regime.modes())


def _require_what_it_can(settings: Parameters) -> None:
    """Raises ParameterError for what the released server's protocol has no words for."""
    wanted = (
        ("regime", settings.loop.regime.regime, STOP_AND_GO),
        ("prefix_conditioning", settings.loop.prefix_conditioning, False),
        ("surprise_action", settings.surprise.action, NONE),
    )
    for name, value, possible in wanted:
        if value != possible:
            raise ParameterError(
                f"parameter {name} is {value!r}, with server_protocol official only {possible!r} is possible: that "
                "protocol has one session that observes and predicts in one call, and tells nothing else"
            )


def _introduction(ready: Ready, contract_hash: str) -> str:
    return (
        f"{ready.parameters / 1e6:.1f} M parameters, {ready.dtype} on {ready.device}, {ready.threads} thread(s), "
        f"guidance {ready.guidance_scale:g}, warmed up in {ready.warm_up_s:.1f} s; contract {contract_hash[:12]}, "
        f"checkpoint {ready.checkpoint_hash[:12]}"
    )
