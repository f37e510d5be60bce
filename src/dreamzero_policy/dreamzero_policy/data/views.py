"""Folders of `.npz` episodes (the compact "views" form) as a data set. Holds no raw images."""

from pathlib import Path

from dreamzero_policy.data.episodes import SUFFIX, Episode, EpisodeError, episode_paths, load_episode
from dreamzero_policy.data.recordings import Recording, action_joints
from dreamzero_policy.runtime.contract import Contract


class ViewsSource:
    """One folder of episodes, named by their files."""

    format = "views"

    def __init__(self, folder: Path, contract: Contract) -> None:
        """Raises EpisodeError if the folder holds no episodes."""
        self.folder, self.contract = folder, contract
        self.names = tuple(path.stem for path in episode_paths(folder))

    def episode(self, name: str, pictures: bool = True) -> Episode:
        """One episode; it is read whole, `pictures` or not. Raises EpisodeError."""
        return load_episode(self.folder / f"{name}{SUFFIX}", self.contract)

    def recording(self, name: str) -> Recording:
        """Raises EpisodeError: views cannot be turned back into images."""
        height, width = self.contract.model.canvas_size_px
        raise EpisodeError(
            f"episode {name}: {self.folder} holds canvases of {width} x {height} px at some of the steps, "
            "not the images they were made of; convert the bags or the LeRobot data set they came from"
        )

    def cameras(self) -> dict[str, tuple[int, int]]:
        """(height, width) of the views."""
        model = self.contract.model
        return {camera: model.view_size_px(camera) for camera in model.cameras}

    def joints(self) -> dict[str, list[str]]:
        """Names of state and action: the contract's."""
        model = self.contract.model
        return {"state": list(model.state_joints), "action": list(action_joints(model))}

    def steps(self, name: str) -> int:
        return self.episode(name).steps
