"""A robot and a model small enough to be evaluated in every test: 16 px views, a network of random weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamzero_policy.data.episodes import Episode
from dreamzero_policy.evaluation.closed_loop import NodeParameters
from dreamzero_policy.evaluation.stage import Result, Setup, Stage
from dreamzero_policy.evaluation.suite import Suite, find_suite
from dreamzero_policy.model.config import ModelConfig
from dreamzero_policy.runtime.contract import Contract, load_contract, save_contract
from dreamzero_policy.runtime.embodiment import Embodiment, Quantiles, save_statistics
from dreamzero_policy.runtime.plan import smootherstep
from dreamzero_policy.runtime.trained import load_statistics

CONFIG = Path(__file__).parents[4] / "config"
PARAMETERS = CONFIG / "policy.yaml"
WORLD = f"{Path(__file__).with_name('fake_suite.py')}:FakeSuite"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def contract() -> Contract:
    contract = load_contract(CONFIG / "agibot_g1.yaml")
    view = contract.model.view.model_copy(update={"width_px": 16, "height_px": 8})
    return contract.model_copy(update={"model": contract.model.model_copy(update={"view": view})})


@pytest.fixture(scope="session")
def checkpoint(
    small_config: ModelConfig,
    write_checkpoint: Callable[[ModelConfig, Path], Path],
    contract: Contract,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Random weights; relative actions of a few hundredths of a radian."""
    shape = {"latent_channels": 8, "patch_size": 4, "latents_mean": (0.0,) * 8, "latents_std": (1.0,) * 8}
    config = replace(
        small_config,
        geometry=replace(small_config.geometry, actions_per_chunk=24, max_action_dim=32),
        transformer=replace(small_config.transformer, image_condition=False, num_layers=1, ffn_dim=32),
        autoencoder=replace(small_config.autoencoder, **shape),
    )
    folder = write_checkpoint(config, tmp_path_factory.mktemp("checkpoint"))
    save_contract(contract, folder / "contract.yaml")
    joints, actions = len(contract.model.state_joints), contract.model.action_width
    reach = np.full(actions, 5e-4)
    reach[:14] = 0.02  # the arms
    save_statistics(folder / "statistics.json", contract, around_zero(joints, 3.0), Quantiles(-reach, reach))
    return folder


def around_zero(width: int, reach: float) -> Quantiles:
    return Quantiles(np.full(width, -reach), np.full(width, reach))


@pytest.fixture(scope="session")
def setup(checkpoint: Path) -> Setup:
    return Setup(WORLD, checkpoint / "contract.yaml", PARAMETERS, {"checkpoint": checkpoint})


@pytest.fixture(scope="session")
def stage(setup: Setup) -> Stage:
    return Stage(setup)


@pytest.fixture(scope="session")
def embodiment(contract: Contract, checkpoint: Path) -> Embodiment:
    return Embodiment(contract, load_statistics(checkpoint, contract))


@pytest.fixture
def suite() -> Suite:
    return find_suite(WORLD)()


@pytest.fixture(scope="session")
def parameters() -> NodeParameters:
    return NodeParameters.load(PARAMETERS)


@pytest.fixture(scope="session")
def demonstrations(contract: Contract, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of 60 and 90 steps in which the arms move by 0.06 and 0.12 rad."""
    folder = tmp_path_factory.mktemp("demonstrations")
    for number, steps in enumerate((60, 90), 1):
        demonstration(contract, steps, 0.06 * number).save(folder / f"{number}.npz", contract)
    return folder


def demonstration(contract: Contract, steps: int, way_rad: float) -> Episode:
    model = contract.model
    limits = contract.site.limits
    home = np.array([(limits[joint].lower + limits[joint].upper) / 2 for joint in model.commanded_joints])
    grippers = np.isin(model.commanded_joints, list(contract.site.grippers))
    action = np.zeros((steps, model.action_width))
    action[:, : len(home)] = np.where(grippers, 0.5, home)
    action[:, :14] += way_rad * smootherstep(np.linspace(0, 1, steps))[:, None]
    state = np.array([row[: len(home)] for row in action])
    view_steps = np.arange(0, steps, 3)
    shape = (len(view_steps), *model.canvas_size_px, 3)
    canvas = np.random.default_rng(steps).integers(0, 256, shape, dtype=np.uint8)
    return Episode("raise the left arm", state, action, canvas, view_steps)


@pytest.fixture(scope="session")
def result_of() -> Callable[..., Result]:
    """A result of a method on a seed with this progress; further fields by name."""

    def make(method: str, seed: int, progress: float, split: str = "seen", **others: object) -> Result:
        values = {
            "checkpoint": "0" * 64,
            "family": ("touch", "push")[seed % 2],
            "novelty": "seen" if split == "seen" else "combination",
            "instruction": "push <it>",
            "success": progress >= 1.0,
            "end": "time",
            "seconds": 5.0,
            "chunks": 5,
            **others,
        }
        return Result(method=method, split=split, seed=seed, progress=progress, **values)

    return make
