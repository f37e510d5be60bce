"""A run's averaged weights as a checkpoint that can be served: whole or not at all, in place of an older one."""

import json
import shutil
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from dreamzero_policy.model import checkpoint as checkpoints
from dreamzero_policy.model.checkpoint import Networks
from dreamzero_policy.runtime.contract import load_contract, save_contract
from dreamzero_policy.training.settings import Recipe
from dreamzero_policy.training.state_file import StateError
from dreamzero_policy.training.trainer import Trainer

TOKENIZER = "tokenizer"
KEPT = ("README.md",)  # of an older checkpoint in the same place: its model card


def export(trainer: Trainer, networks: Networks, recipe: Recipe, stage: str, run: Path, out: Path) -> None:
    """Write the checkpoint aside, then put it in place.

    Raises:
        StateError: the disk is full or cannot be written; an older checkpoint is still as it was.
    """
    aside, replaced = (out.with_name(out.name + suffix) for suffix in (".part", ".old"))
    shutil.rmtree(aside, ignore_errors=True)
    transformers_logging.disable_progress_bar()
    try:
        checkpoints.save(networks, trainer.config, aside, torch.bfloat16)
        save_contract(load_contract(recipe.contract), aside / "contract.yaml")
        shutil.copy(run / "statistics.json", aside / "statistics.json")
        if (run / TOKENIZER).is_dir():
            shutil.copytree(run / TOKENIZER, aside / TOKENIZER)
        if recipe.path is not None:
            shutil.copy(recipe.path, aside / "training.yaml")
        facts = {
            "stage": stage,
            "step": trainer.step,
            "seed": trainer.settings.seed,
            "windows": len(trainer.windows),
        }
        (aside / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        for name in KEPT:
            if (out / name).exists():
                shutil.copy(out / name, aside / name)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StateError(f"{out} cannot be written: {error}") from error
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.rename(replaced)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)
