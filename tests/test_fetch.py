"""Fetching files from addresses, from a real server on this machine that can be told to misbehave."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server import QUOTA, Server, archive, serving

from scadm.data import fetch
from scadm.data.fetch import Fetched, Wanted


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


class Bar:
    """Notes what would have been shown."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, int]] = []
        self.bytes = 0

    def start(self, name: str, total: int, done: int) -> None:
        self.started.append((name, total, done))

    def advance(self, count: int) -> None:
        self.bytes += count


def get(cache: Path, *addresses: str, sha256: str | None = None, name: str = "faces.zip", **options: Any) -> Fetched:
    return fetch.fetch(Wanted(name, addresses, sha256), cache, options.pop("bar", Bar()), pause=0.01, **options)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_fetched_once_and_its_hash_recorded(server: Server, tmp_path: Path) -> None:
    bar = Bar()
    found = get(tmp_path, f"{server.address}/a", bar=bar)
    assert found.path.read_bytes() == server.content
    assert found.new_hash and found.record.sha256 == digest(server.content)
    assert bar.started == [("faces.zip", len(server.content), 0)] and bar.bytes == len(server.content)
    again = get(tmp_path, f"{server.address}/a")
    assert again == found._replace(new_hash=False)
    assert len(server.asked) == 1, "from the cache"
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")) == [
        "faces.zip",
        "faces.zip.json",
    ]


def test_after_a_break_it_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.break_after = [1_500_000, 700_000]
    found = get(tmp_path, f"{server.address}/a")
    assert found.path.read_bytes() == server.content
    assert server.asked[0] is None and len(server.asked) == 3
    for asked, expected in zip(server.asked[1:], (1_500_000, 2_200_000), strict=True):
        assert expected - 2 * 65536 < int((asked or "").removeprefix("bytes=").removesuffix("-")) <= expected


def test_a_killed_fetch_goes_on_in_the_next_process(server: Server, tmp_path: Path) -> None:
    class Killed(Bar):
        def advance(self, count: int) -> None:
            super().advance(count)
            if self.bytes > 1_000_000:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path, f"{server.address}/a", bar=Killed())
    bar = Bar()
    found = get(tmp_path, f"{server.address}/a", bar=bar)
    assert found.path.read_bytes() == server.content
    assert 0 < bar.started[0][2] < len(server.content) and bar.bytes < len(server.content)


@pytest.mark.parametrize("etag", ['"two"', 'W/"two"', None])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    server: Server, tmp_path: Path, etag: str | None
) -> None:
    server.break_after = [1_000_000]
    server.answers = []
    original = server.content

    class Changing(Bar):
        def advance(self, count: int) -> None:
            server.etag, server.content = etag, original[:100] + original[100:][::-1] + b"PK"

    with pytest.raises(ValueError, match="no whole zip archive"):
        get(tmp_path, f"{server.address}/a", bar=Changing())
    server.content, server.etag = original, '"one"'
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == original


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.ranges, server.break_after = False, [1_000_000]
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content


def test_what_had_arrived_whole_before_a_kill_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    get(tmp_path, f"{server.address}/a")
    (tmp_path / "faces.zip").rename(tmp_path / ".faces.zip.part")
    origin = {"address": f"{server.address}/a", "mark": server.etag, "total": len(server.content)}
    (tmp_path / ".faces.zip.part.json").write_text(json.dumps(origin))
    (tmp_path / "faces.zip.json").unlink()
    bar = Bar()
    assert get(tmp_path, f"{server.address}/a", bar=bar).path.read_bytes() == server.content
    assert bar.bytes == 0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_fault_is_tried_again(server: Server, tmp_path: Path, status: int) -> None:
    server.answers = [status] * 3
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content


def test_a_lasting_fault_ends_after_a_few_attempts(server: Server, tmp_path: Path) -> None:
    server.answers = [503] * 100
    with pytest.raises(ValueError, match=re.escape(f"{server.address}/a: no more bytes came in 5 attempts")):
        get(tmp_path, f"{server.address}/a")
    assert len(server.answers) == 95


def test_the_next_mirror_serves_where_one_does_not(server: Server, tmp_path: Path) -> None:
    server.answers = [404]
    found = get(tmp_path, f"{server.address}/gone", f"{server.address}/there")
    assert found.record.address == f"{server.address}/there"


def test_every_mirror_s_fault_is_named(server: Server, tmp_path: Path) -> None:
    server.answers = [404, 403]
    with pytest.raises(ValueError) as error:
        get(tmp_path, f"{server.address}/a", f"{server.address}/b", "file:///nowhere/at/all.zip")
    for line in (f"{server.address}/a: it answered 404", f"{server.address}/b: it answered 403", "nowhere/at/all.zip"):
        assert line in str(error.value)


@pytest.mark.parametrize("more", [1, 1_000_000])
def test_a_server_that_announces_more_than_it_has(server: Server, tmp_path: Path, more: int) -> None:
    size = len(server.content)
    server.announced = size + more
    with pytest.raises(ValueError, match="no more bytes came in 5 attempts"):
        get(tmp_path, f"{server.address}/a")
    assert not (tmp_path / "faces.zip").exists()


def test_a_server_that_announces_less_than_it_has(server: Server, tmp_path: Path) -> None:
    server.announced = len(server.content) - 1000
    with pytest.raises(ValueError, match="no whole zip archive"):
        get(tmp_path, f"{server.address}/a")
    assert not (tmp_path / "faces.zip").exists() and not (tmp_path / "faces.zip.json").exists()


def test_a_web_page_is_explained(server: Server, tmp_path: Path) -> None:
    server.page = "<!DOCTYPE html><html><body><h1>CelebAMask-HQ</h1>Please log in.</body></html>"
    with pytest.raises(ValueError, match=r"a web page came instead of the file: 'CelebAMask-HQ Please log in\.'"):
        get(tmp_path, f"{server.address}/a")


def test_something_else_than_a_zip_is_named(server: Server, tmp_path: Path) -> None:
    server.content = b"\x89PNG and so on"
    with pytest.raises(ValueError, match=re.escape(r"no zip archive: it begins with b'\x89PNG and so on'")):
        get(tmp_path, f"{server.address}/a")


def test_drive_s_form_is_confirmed_and_its_transfer_continued(server: Server, tmp_path: Path) -> None:
    server.break_after = [1_000_000]
    found = get(tmp_path, "drive:FILE", drive=f"{server.address}/download")
    assert found.path.read_bytes() == server.content
    assert server.asked[0] is None and len(server.asked) == 2 and (server.asked[1] or "") > "bytes=8"


def test_a_quota_that_is_used_up_is_explained(server: Server, tmp_path: Path) -> None:
    server.page = QUOTA
    with pytest.raises(ValueError, match="drive:FILE: its quota is used up: too many people") as error:
        get(tmp_path, "drive:FILE", drive=f"{server.address}/download")
    assert "color: red" not in str(error.value)


def test_a_given_hash_is_required(server: Server, tmp_path: Path) -> None:
    right = digest(server.content)
    with pytest.raises(ValueError, match=f"has sha256 {right}, expected the {'0' * 64} given"):
        get(tmp_path, f"{server.address}/a", sha256="0" * 64)
    found = get(tmp_path, f"{server.address}/a", sha256=right)
    assert not found.new_hash


def test_the_recorded_hash_is_required_of_a_later_fetch(server: Server, tmp_path: Path) -> None:
    first = get(tmp_path, f"{server.address}/a")
    first.path.unlink()
    good, server.content, server.etag = server.content, archive() + b"\0", '"two"'
    with pytest.raises(ValueError, match=f"expected the {first.record.sha256} recorded when it was first fetched"):
        get(tmp_path, f"{server.address}/a")
    server.content, server.etag = good, '"one"'
    assert get(tmp_path, f"{server.address}/a").record == first.record


def test_a_cached_file_that_was_changed_is_refused(server: Server, tmp_path: Path) -> None:
    found = get(tmp_path, f"{server.address}/a")
    content = bytearray(found.path.read_bytes())
    content[1_000_000] ^= 1
    found.path.write_bytes(content)
    with pytest.raises(ValueError, match=f"has sha256 {digest(bytes(content))}, expected {found.record.sha256}"):
        get(tmp_path, f"{server.address}/a")
    found.path.write_bytes(content[:5])
    with pytest.raises(ValueError, match="of 5 bytes, expected"):
        get(tmp_path, f"{server.address}/a")


def test_a_disk_without_space_is_named_before_the_transfer(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(ValueError, match=r"faces\.zip needs 0\.00 GB more"):
        get(tmp_path, f"{server.address}/a")


def test_a_local_address_is_fetched_and_continued(tmp_path: Path) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(archive())
    found = get(tmp_path / "cache", f"file://{source}")
    assert found.path.read_bytes() == source.read_bytes()
