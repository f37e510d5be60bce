"""Files that are installed with the stack, found from any folder."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory

from dreamzero_policy.runtime.contract import Contract, load_contract


def shipped_checkpoint() -> Path:
    return _shipped("agibot_g1_tiny")


def shipped_rivals() -> dict[str, Path]:
    """What the shipped checkpoint is compared with: its Flash version and its twin trained without the video loss."""
    return {"flash": _shipped("agibot_g1_tiny_flash"), "vla": _shipped("agibot_g1_tiny_vla")}


def _shipped(name: str) -> Path:
    return Path(get_package_share_directory("dreamzero")) / "checkpoints" / name


def sampler_steps(checkpoint: Path | None) -> int:
    """Solver steps per chunk that a checkpoint, the shipped one by default, says it is best served with.

    Raises CheckpointError for a folder that is no checkpoint.
    """
    from dreamzero_policy.model.source import config_of  # torch takes seconds to come

    return config_of(checkpoint or shipped_checkpoint()).sampler.steps


def shipped_contract_path() -> Path:
    return Path(get_package_share_directory("dreamzero")) / "config" / "agibot_g1.yaml"


def shipped_parameters_path() -> Path:
    """Of the node."""
    return Path(get_package_share_directory("dreamzero")) / "config" / "policy.yaml"


def shipped_contract() -> Contract:
    return load_contract(shipped_contract_path())


def model_variants() -> dict[str, Path]:
    """The model configurations that come with the stack, by name."""
    folder = Path(get_package_share_directory("dreamzero")) / "config" / "models"
    return {path.stem: path for path in folder.glob("*.yaml")}
