"""What a checkpoint was trained for: its statistics for a contract, or why the contract does not fit.

A checkpoint of this runtime carries one contract and its statistics. A release carries embodiments under tags, in
`experiment_cfg/`; converted, it keeps them under `release/`. Either way a contract that differs in anything training
fixed is refused with all that differs.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from dreamzero_policy.runtime.contract import Contract, ContractError, load_model_section, require_same_model
from dreamzero_policy.runtime.embodiment import Statistics
from dreamzero_policy.runtime.release import release_contract, release_differences, release_statistics, served

CONTRACT_FILE = "contract.yaml"
STATISTICS_FILE = "statistics.json"
CONF_FILE, METADATA_FILE = "experiment_cfg/conf.yaml", "experiment_cfg/metadata.json"


def load_statistics(checkpoint: Path | str, contract: Contract, tag: str = "") -> Statistics:
    """The statistics of a checkpoint for a contract that it was trained for.

    Args:
        checkpoint: a checkpoint of this runtime, or a release, converted or not.
        contract: the contract that will run.
        tag: which embodiment of a release; empty takes the only one that fits.

    Raises:
        ContractError: the contract differs from what training fixed, no embodiment (or more than one) fits, or a file
            is absent or broken.
    """
    checkpoint = Path(checkpoint)
    if (checkpoint / CONTRACT_FILE).is_file():
        require_same_model(contract, load_model_section(checkpoint / CONTRACT_FILE), checkpoint)
        return Statistics.load(checkpoint / STATISTICS_FILE, contract)
    places = (checkpoint, checkpoint / "release")
    folder = next((place for place in places if (place / METADATA_FILE).is_file()), None)
    if folder is None:
        raise ContractError(f"{checkpoint} has neither {CONTRACT_FILE} nor {METADATA_FILE}: it names no robot")
    conf, metadata = _document(folder / CONF_FILE), _document(folder / METADATA_FILE)
    known = served(conf, metadata)
    if tag and tag not in known:
        raise ContractError(f"{checkpoint} has no embodiment {tag!r} that this runtime can serve, it has {known}")
    differences = {
        name: release_differences(contract.model, release_contract(conf, metadata, name))
        for name in ([tag] if tag else known)
    }
    fitting = [name for name, lines in differences.items() if not lines]
    if len(fitting) != 1:
        lines = "\n".join(f"  {name}: {'; '.join(lines) or 'fits'}" for name, lines in differences.items())
        raise ContractError(
            f"{len(fitting)} embodiments of {checkpoint} fit the contract {contract.model.embodiment}, one must "
            f"(contract | release):\n{lines}"
        )
    return release_statistics(metadata, fitting[0], contract.model)


def _document(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ContractError(f"{path} cannot be read: {error}") from error
