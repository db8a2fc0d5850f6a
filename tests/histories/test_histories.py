"""Every story of ``stories.py``, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.histories.cast import Cast, Story
from tests.histories.stories import STORIES


@pytest.mark.parametrize("story", STORIES, ids=[story.title for story in STORIES])
def test_history(story: Story, tmp_path: Path) -> None:
    cast = Cast(story, tmp_path)
    try:
        for now_ms, name, event, phase, orders in story.rows:
            ordered = cast.play(now_ms, name, event)
            assert (cast.players[name].state.phase, ordered) == (phase, orders), f"at {now_ms} ms"
    finally:
        cast.close()
