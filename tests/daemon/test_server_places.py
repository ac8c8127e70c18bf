"""The folders of model servers' sockets."""

from __future__ import annotations

from pathlib import Path

from p104d.daemon.server_launch import ServerPlaces


def test_a_folder_of_its_own_for_a_long_path_is_not_left_behind(tmp_path: Path) -> None:
    places = ServerPlaces(tmp_path / ("long" * 30), tmp_path / "state", system=False)
    assert places.folder.parent == Path("/tmp")
    places.close()  # none was ever made
    places.make(1, None, shared=False)
    places.close()
    assert places.folder.exists(), "a server listens there"
    places.remove(1)
    places.close()
    assert not places.folder.exists()
