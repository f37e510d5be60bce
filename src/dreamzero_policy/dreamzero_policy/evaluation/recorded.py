"""Recorded episodes that an evaluation reads: any data set, in any form, that training reads too."""

from pathlib import Path

from dreamzero_policy.data.dataset import Dataset, open_source
from dreamzero_policy.data.episodes import Episode, EpisodeError
from dreamzero_policy.runtime.contract import Contract


class RecordedEpisodes(Dataset):
    """A data set as it is. Errors name its folder: an evaluation may be given two."""

    def __init__(self, folder: Path, contract: Contract) -> None:
        """Raises EpisodeError if the folder holds no episodes, or more than one form of them."""
        super().__init__(open_source(folder, contract), contract)
        self.folder = folder

    def episode(self, name: str, pictures: bool = True) -> Episode:
        """One episode. Raises EpisodeError that names the folder and the episode."""
        try:
            return super().episode(name, pictures)
        except EpisodeError as error:
            message = str(error)
            raise EpisodeError(message if str(self.folder) in message else f"{self.folder}: {message}") from error
