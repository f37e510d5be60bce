"""`dreamzero convert checkpoint`: one layout into another, or a model without its weights."""

from pathlib import Path

from dreamzero_policy.cli.share import model_variants

MIB = 1 << 20


def convert_checkpoint(
    source: Path, destination: Path, layout: str, *, base: Path | None, torch_files: bool, shard_mib: int
) -> None:
    """Write a checkpoint in another layout; adapters are merged into their base.

    Raises CheckpointError.
    """
    from dreamzero_policy.model.convert import convert
    from dreamzero_policy.model.source import open_source

    convert(open_source(source, base, torch_files=torch_files), destination, layout, shard_bytes=shard_mib * MIB)


def write_blank(variant: str, destination: Path, layout: str, *, shard_mib: int) -> None:
    """Write a variant's configuration, index and headers, with a hole in place of the weights.

    ``variant`` is a name in config/models or a path to such a file. Raises CheckpointError, ConfigError.
    """
    from dreamzero_policy.model.config import ConfigError, ModelConfig
    from dreamzero_policy.model.convert import blank_source, convert

    if Path(variant).is_file():
        config = ModelConfig.from_file(variant)
    elif variant in (known := model_variants()):
        config = ModelConfig.from_file(known[variant])
    else:
        raise ConfigError(f"no variant {variant!r}; known are {', '.join(sorted(known))}, or give a file")
    convert(blank_source(config), destination, layout, shard_bytes=shard_mib * MIB)
