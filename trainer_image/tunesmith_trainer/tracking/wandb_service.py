"""Weights & Biases, through its own client. Used by one `Sender`; imported only when asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import wandb

from tunesmith_api.tracking import Wandb
from tunesmith_trainer.keys import read_key
from tunesmith_trainer.tracking.identity import Identity
from tunesmith_trainer.tracking.sending import Ending, Point

_SECRET = "WANDB_API_KEY"  # noqa: S105 - the name of a key, not its value
_EXIT_CODES = {Ending.FINISHED: 0, Ending.INTERRUPTED: 0, Ending.FAILED: 1}


class WandbService:
    """A run with an id of its own, gone on with by later attempts."""

    def __init__(
        self, settings: Wandb, identity: Identity, credentials: Path, directory: Path
    ) -> None:
        """`credentials` is the folder with the Secret's key; `directory` is for W&B's own files."""
        self._settings, self._identity = settings, identity
        self._key = read_key(credentials, _SECRET) or None
        self._directory = directory
        self._run: wandb.Run | None = None

    def open(self) -> Mapping[str, int]:
        """Find or make the run. W&B itself passes over steps that it has."""
        self._directory.mkdir(parents=True, exist_ok=True)
        identity = self._identity
        self._run = wandb.init(
            project=self._settings.project,
            entity=self._settings.entity or None,
            id=identity.key,
            resume="allow",
            name=identity.name,
            config=identity.parameters | identity.tags,
            dir=self._directory,
            settings=wandb.Settings(
                base_url=self._settings.base_url or "https://api.wandb.ai",
                api_key=self._key,
                console="off",
                disable_git=True,
                disable_code=True,
                silent=True,
                x_disable_stats=True,
                init_timeout=30,
                # Without it the process would not end while the server is away.
                finish_timeout=10,
            ),
        )
        return {}

    def send(self, points: Sequence[Point]) -> None:
        """Hand points to W&B's own process."""
        assert self._run is not None  # noqa: S101 - open comes first
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def close(self, ending: Ending) -> None:
        """End the run; a later attempt may begin it again."""
        assert self._run is not None  # noqa: S101 - open comes first
        self._run.finish(exit_code=_EXIT_CODES[ending])
