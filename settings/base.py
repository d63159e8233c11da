"""What all sections share: unknown keys are errors, relative paths and ~ become absolute."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict


class Settings(BaseModel):
    """A section of a config. An unknown key is an error, so that no misspelt setting is ignored."""

    model_config = ConfigDict(extra="forbid")


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


#: A path or a URL. Relative paths become absolute, since a worker may run in another folder.
FilePath = Annotated[str, AfterValidator(_absolute)]
