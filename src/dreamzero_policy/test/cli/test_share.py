"""What is installed with the stack."""

import json
from pathlib import Path

import pytest

from dreamzero_policy.cli.share import sampler_steps, shipped_checkpoint, shipped_rivals

TRANSFORMER = Path("transformer") / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", ["flash", "vla"])
def test_a_rival_of_the_shipped_checkpoint_differs_from_it_in_its_transformer_alone(name: str) -> None:
    ours, rival = shipped_checkpoint(), shipped_rivals()[name]
    own = {"config.json", "training.json", "training.yaml", "README.md", str(TRANSFORMER)}
    for file in sorted(path.relative_to(rival) for path in rival.rglob("*") if path.is_file()):
        if str(file) not in own:
            assert (rival / file).read_bytes() == (ours / file).read_bytes(), file
    assert (rival / TRANSFORMER).read_bytes() != (ours / TRANSFORMER).read_bytes()
    assert sampler_steps(rival) == sampler_steps(ours) == 1


def test_the_twin_without_video_loss_is_served_with_noise_for_the_coming_video() -> None:
    configs = {
        name: json.loads((folder / "config.json").read_text())
        for name, folder in {"checkpoint": shipped_checkpoint(), **shipped_rivals()}.items()
    }
    kept = {name: config["sampler"].pop("video_final_noise") for name, config in configs.items()}
    assert kept == {"checkpoint": None, "flash": None, "vla": 0.999}
    assert configs["vla"] == configs["flash"] == configs["checkpoint"]
