"""Where the faces come from: what the stage `download` does before it writes its manifest."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import archives
import pytest
from server import serving

from scadm.config import DataConfig
from scadm.data import official, source
from scadm.data.archive import FaceArchive
from scadm.data.source import Origin

Obtain = Callable[[DataConfig], Origin]


def config(**changes: object) -> DataConfig:
    tree = {
        "source": "celebamask-hq",
        "path": "given.zip",
        "addresses": (),
        "sha256": None,
        "synthetic": {"count": 3, "image_size": 32},
        "split": {"rule": "fraction", "validation": 0.1, "test": 0.1},
        "known_bad": (),
    }
    if changes.get("addresses"):
        tree["path"] = "scadm/data/fetch.py"
    return DataConfig.model_validate(tree | changes)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def obtain(tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch) -> Obtain:
    """With a data set of four faces, two to a folder."""
    monkeypatch.setattr(official, "IMAGES", 4)
    monkeypatch.setattr(official, "PER_FOLDER", 2000)
    (tmp_path / "work").mkdir()

    def run(data: DataConfig) -> Origin:
        given = tmp_path / data.path
        return source.obtain(data, 0, given, tmp_path / "downloads", tmp_path / "work", said.append)

    return run


def packed(path: Path, count: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    return archives.pack(path, archives.official(range(count)))


def test_an_archive_comes_from_an_address(obtain: Obtain, said: list[str], tmp_path: Path) -> None:
    with serving() as server:
        server.content = packed(tmp_path / "remote.zip", 4).read_bytes()
        server.break_after = [len(server.content) // 2]
        address = f"{server.address}/CelebAMask-HQ.zip"
        origin = obtain(config(addresses=[address]))
        assert origin == Origin(["archive.zip"], address, official.TERMS)
        archive = tmp_path / "work/archive.zip"
        assert FaceArchive(archive).ids == ("00000", "00001", "00002", "00003")
        assert archive.samefile(tmp_path / "downloads/CelebAMask-HQ.zip"), "it is not stored twice"
        assert said[0] == official.TERMS and f"the sha256 of {address} was not known" in said[1]
        # Again, as after a change of the parameters: nothing is fetched, and the terms are said.
        said.clear()
        archive.unlink()
        assert obtain(config(addresses=[address])) == origin
    assert len(server.asked) == 2 and said == [official.TERMS]


def test_an_archive_that_lacks_faces_is_refused(obtain: Obtain, tmp_path: Path) -> None:
    with serving() as server:
        server.content = packed(tmp_path / "remote.zip", 3).read_bytes()
        with pytest.raises(ValueError, match=r"has 3 faces, expected the 4 of CelebAMask-HQ.*lacking: 00003"):
            obtain(config(addresses=[f"{server.address}/a.zip"]))
    assert not (tmp_path / "work/archive.zip").exists()


def test_a_wrong_archive_is_never_required_later(obtain: Obtain, tmp_path: Path) -> None:
    wrong, right = packed(tmp_path / "wrong.zip", 3), packed(tmp_path / "right.zip", 4)
    (tmp_path / "remote.zip").write_bytes(wrong.read_bytes())
    addresses = [f"file://{tmp_path}/remote.zip", f"file://{right}"]
    with pytest.raises(ValueError, match=r"remote\.zip: what it serves has 3 faces, expected the 4"):
        obtain(config(addresses=addresses[:1]))
    assert obtain(config(addresses=addresses)).address == addresses[1], "the next mirror is tried"
    for path in (tmp_path / "downloads").iterdir():
        path.unlink()
    (tmp_path / "remote.zip").write_bytes(right.read_bytes())
    assert obtain(config(addresses=addresses[:1])).address == addresses[0]


def test_an_unknown_bad_id_is_no_fault_of_the_archive(obtain: Obtain, tmp_path: Path) -> None:
    address = f"file://{packed(tmp_path / 'remote.zip', 4)}"
    with pytest.raises(ValueError, match=r"data\.known_bad lists 00009"):
        obtain(config(addresses=[address], known_bad=["00009"]))
    (tmp_path / "remote.zip").unlink()
    assert obtain(config(addresses=[address], known_bad=["00003"])).address == address, "it was kept"


def test_a_given_hash_is_required_of_a_local_archive(obtain: Obtain, tmp_path: Path) -> None:
    right = hashlib.sha256(packed(tmp_path / "given.zip", 3).read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=rf"given\.zip has sha256 {right}, expected the {'0' * 64} given"):
        obtain(config(sha256="0" * 64))
    assert not (tmp_path / "work/archive.zip").exists()
    assert obtain(config(sha256=right)).files == ["archive.zip"]


def test_an_archive_of_one_s_own_may_have_fewer(obtain: Obtain, said: list[str], tmp_path: Path) -> None:
    packed(tmp_path / "given.zip", 3)
    assert obtain(config()) == Origin(["archive.zip"], None, official.TERMS)
    assert said == [official.TERMS]


def test_drawn_faces_have_no_terms(obtain: Obtain, said: list[str], tmp_path: Path) -> None:
    assert obtain(config(source="synthetic", path="scadm/data/synthetic")) == Origin(
        ["archive.zip", "factors.parquet"], None, None
    )
    assert not said and len(FaceArchive(tmp_path / "work/archive.zip").ids) == 3


@pytest.mark.parametrize("path", ["https://localhost/faces.zip", "nowhere.zip"])
def test_a_path_with_nothing_to_read(obtain: Obtain, path: str) -> None:
    with pytest.raises(ValueError, match=r"data\.path is"):
        obtain(config(path=path))
