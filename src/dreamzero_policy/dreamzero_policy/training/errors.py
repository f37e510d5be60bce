"""Everything that a training is refused or stopped for, so that a command can say it in one line."""

from dreamzero_policy.data.episodes import EpisodeError
from dreamzero_policy.data.pictures import PictureError
from dreamzero_policy.model.conditioning import PromptTooLongError, TokenizerError
from dreamzero_policy.model.config import ConfigError
from dreamzero_policy.model.weights import CheckpointError
from dreamzero_policy.runtime.contract import ContractError
from dreamzero_policy.training.latents import LatentsError
from dreamzero_policy.training.settings import RecipeError
from dreamzero_policy.training.starting import StartError
from dreamzero_policy.training.state_file import StateError
from dreamzero_policy.training.tuning import TuningError
from dreamzero_policy.training.vocabulary import VocabularyError

TRAINING_ERRORS = (
    CheckpointError,
    ConfigError,
    ContractError,
    EpisodeError,
    FloatingPointError,
    LatentsError,
    PictureError,
    PromptTooLongError,
    RecipeError,
    StartError,
    StateError,
    TokenizerError,
    TuningError,
    VocabularyError,
)
