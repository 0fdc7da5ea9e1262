"""The scenes, each made once; and who needs it gets it as it was made."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.scene import Scene, dealt, fresh, killed, worn

SCENES = {"fresh": fresh, "killed": killed, "dealt": dealt, "worn": worn}


@pytest.fixture(scope="session")
def scene_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scene]:
    """Gives a scene by its name."""
    made: dict[str, Scene] = {}

    def of(name: str) -> Scene:
        if name not in made:
            made[name] = SCENES[name](tmp_path_factory.mktemp(name))
        made[name].restore()
        return made[name]

    return of
