"""Fetching files from addresses, from a real server on this machine that can be told to misbehave."""

import errno
import hashlib
import json
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer
from server import QUOTA, Server, archive, serving

from scadm.data import fetch, streams
from scadm.data.fetch import Fetched, Wanted
from scadm.files.manifest import write_json


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


def part_of(cache: Path, address: str, name: str = "faces.zip") -> Path:
    return cache / f"{name}-{digest(address.encode())[:8]}.part"


class Killed(Bar):
    def advance(self, count: int) -> None:
        super().advance(count)
        if self.bytes > 1_000_000:
            raise KeyboardInterrupt


def killed(cache: Path, address: str) -> Path:
    """What a fetch leaves that was killed after a megabyte."""
    with pytest.raises(KeyboardInterrupt):
        get(cache, address, bar=Killed())
    part = part_of(cache, address)
    assert part.stat().st_size > 900_000
    return part


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
    part = killed(tmp_path, f"{server.address}/a")
    assert not part.name.startswith("."), "who looks for what fills the disk sees it"
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
    part = part_of(tmp_path, f"{server.address}/a")
    (tmp_path / "faces.zip").rename(part)
    origin = {"address": f"{server.address}/a", "mark": server.etag, "total": len(server.content)}
    part.with_name(f"{part.name}.json").write_text(json.dumps(origin))
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
    bar = Bar()
    found = get(tmp_path, f"{server.address}/a", sha256=right, bar=bar)
    assert not found.new_hash and found.path.read_bytes() == server.content
    assert bar.bytes == 0, "what the mistyped hash refused was kept"


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


# --- what has arrived is not lost -----------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", None])
def test_a_web_page_instead_of_the_rest_leaves_what_had_arrived(
    server: Server, tmp_path: Path, content_type: str | None
) -> None:
    part = killed(tmp_path, f"{server.address}/a")
    before = part.read_bytes()
    if content_type:
        server.page = QUOTA
    else:  # as a file, from its start
        content, etag, server.content, server.etag = server.content, server.etag, QUOTA.encode(), None
    with pytest.raises(ValueError, match="quota is used up"):
        get(tmp_path, f"{server.address}/a")
    assert part.read_bytes() == before
    if content_type:
        server.page = None
    else:
        server.content, server.etag = content, etag
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content
    assert server.asked[-1] == f"bytes={len(before)}-"


def test_a_kill_while_another_version_begins_mixes_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(tmp_path, f"{server.address}/a")
    server.content, server.etag = server.content[:100] + server.content[100:-100][::-1] + server.content[-100:], '"two"'
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def write_and_die(path: Path, tree: object) -> None:
            write_json(path, tree)
            raise KeyboardInterrupt

        patched.setattr(fetch, "write_json", write_and_die)
        get(tmp_path, f"{server.address}/a")
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content


def test_a_mirror_does_not_overwrite_what_came_from_another(server: Server, tmp_path: Path) -> None:
    first, second = f"{server.address}/a", f"{server.address}/b"
    part = killed(tmp_path, first)
    size = part.stat().st_size
    server.answers, server.break_after = [404], [500_000, 0, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"/a: it answered 404(.|\n)*/b: no more bytes came"):
        get(tmp_path, first, second)
    assert part.stat().st_size == size and part_of(tmp_path, second).stat().st_size > 300_000
    server.break_after = []
    assert get(tmp_path, first, second).record.address == first
    assert server.asked[-1] == f"bytes={size}-"
    assert not list(tmp_path.glob("*.part*")), "those of the other addresses go too"


@pytest.mark.parametrize("answer", ["", "bytes */*", "bytes one-two/three", "items 0-1/2"])
def test_a_part_with_an_answer_that_does_not_say_where_it_belongs(server: Server, tmp_path: Path, answer: str) -> None:
    killed(tmp_path, f"{server.address}/a")
    server.content_range = answer
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content
    assert server.asked[-1] is None, "from the start"


# --- which file it is -----------------------------------------------------------------------------------


def test_a_mistyped_hash_deletes_nothing(server: Server, tmp_path: Path) -> None:
    found = get(tmp_path, f"{server.address}/a")
    with pytest.raises(ValueError, match=f"sha256 {'0' * 64} is given .* has {found.record.sha256}.*correct it"):
        get(tmp_path, f"{server.address}/a", sha256="0" * 64)
    assert get(tmp_path, f"{server.address}/a") == found._replace(new_hash=False) and len(server.asked) == 1


def refuse_first(server: Server) -> Any:
    """A check that refuses the content as the server has it now, and says so by the path that it was given."""
    wrong = server.content

    def check(path: Path) -> None:
        if path.read_bytes() == wrong:
            raise ValueError(f"{path} has 3 faces, expected 4.")

    return check


def test_a_file_that_fails_the_check_is_not_recorded(server: Server, tmp_path: Path) -> None:
    check = refuse_first(server)
    with pytest.raises(ValueError, match=r"/a: what it serves has 3 faces, expected 4\."):
        get(tmp_path, f"{server.address}/a", check=check)
    assert not [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")]
    server.content, server.etag = server.content + b"\0" * 9, '"two"'
    assert get(tmp_path, f"{server.address}/a", check=check).record.sha256 == digest(server.content)


def test_where_one_address_has_another_file_the_next_is_tried(server: Server, tmp_path: Path) -> None:
    (tmp_path / "right.zip").write_bytes(archive() + b"\0" * 9)
    found = get(tmp_path, f"{server.address}/a", f"file://{tmp_path}/right.zip", check=refuse_first(server))
    assert found.record.address == f"file://{tmp_path}/right.zip"


def test_the_cached_file_serves_for_other_addresses_if_it_is_whole(server: Server, tmp_path: Path) -> None:
    found = get(tmp_path, f"{server.address}/a")
    assert get(tmp_path, f"{server.address}/mirror") == found._replace(new_hash=False)
    with pytest.raises(
        ValueError, match=r"has 3 faces, expected 4\. It was fetched from .*/a: delete .*faces\.zip and"
    ):
        get(tmp_path, f"{server.address}/mirror", check=refuse_first(server))
    assert found.path.is_file()


def test_the_same_name_at_two_addresses_is_two_files(server: Server, tmp_path: Path) -> None:
    found = []
    for folder in ("one", "two"):
        server.content = folder.encode() * 9
        address = f"{server.address}/{folder}/model.ckpt"
        found.append(fetch.locate(address, None, tmp_path, tmp_path / "downloads", Bar()))
        assert found[-1].path.read_bytes() == server.content and "is recorded" in (found[-1].remark or "")
    assert found[0].path != found[1].path and all(path.name.endswith("-model.ckpt") for path, _ in found)
    again = fetch.locate(f"{server.address}/one/model.ckpt", None, tmp_path, tmp_path / "downloads", Bar())
    assert again == (found[0].path, None)


def test_a_given_hash_is_required_of_a_local_file(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").write_bytes(b"weights")
    right = digest(b"weights")
    assert fetch.locate("model.ckpt", right, tmp_path, tmp_path, Bar()) == (tmp_path / "model.ckpt", None)
    with pytest.raises(ValueError, match=rf"model\.ckpt has sha256 {right}, expected the {'0' * 64} given"):
        fetch.locate("model.ckpt", "0" * 64, tmp_path, tmp_path, Bar())
    with pytest.raises(ValueError, match="is a folder, but the sha256"):
        fetch.locate(".", "0" * 64, tmp_path, tmp_path, Bar())
    assert fetch.locate("gone.ckpt", "0" * 64, tmp_path, tmp_path, Bar()).path == tmp_path / "gone.ckpt"


# --- what else can go wrong -----------------------------------------------------------------------------


def test_a_web_page_is_no_weights(server: Server, tmp_path: Path) -> None:
    server.content_type, server.content = "text/html", b"\x80\2 weights"
    with pytest.raises(ValueError, match="a web page came instead of the file"):
        get(tmp_path, f"{server.address}/a", name="model.ckpt")
    server.content_type, server.chunked = "application/octet-stream", True
    server.content, server.piece, server.pause = b"<!-- a comment --> \n" * 50 + b"<HTML>Sign in", 7, 0.0001
    with pytest.raises(ValueError, match=r"a web page came instead of the file: '.*Sign in'.* of a folder.* a zip"):
        get(tmp_path, f"{server.address}/a", name="model.ckpt")
    server.content = b"PK\3\4 <html> is no page in a zip"
    assert get(tmp_path, f"{server.address}/a", name="model.ckpt").path.read_bytes() == server.content


@pytest.mark.parametrize("status", [403, 429])
def test_a_used_up_quota_is_explained_under_any_status(server: Server, tmp_path: Path, status: int) -> None:
    server.page, server.page_status = QUOTA, status
    with pytest.raises(ValueError, match="drive:FILE: its quota is used up: too many people"):
        get(tmp_path, "drive:FILE", drive=f"{server.address}/download")
    server.page = "<html><body>Slow down.</body></html>"
    with pytest.raises(ValueError, match="it answered 403" if status == 403 else "no more bytes came in 5 attempts"):
        get(tmp_path, f"{server.address}/a")


@pytest.mark.parametrize(
    ("address", "name"), [("{}/loop", "TooManyRedirects"), ("http://[", "InvalidURL"), ("http://", "InvalidURL")]
)
def test_an_address_that_cannot_be_asked_is_named(server: Server, tmp_path: Path, address: str, name: str) -> None:
    found = get(tmp_path, address.format(server.address), f"{server.address}/a")
    assert found.record.address == f"{server.address}/a", "the next one is tried"
    found.path.unlink()
    with pytest.raises(ValueError, match=rf"it cannot be asked \({name}: "):
        get(tmp_path, address.format(server.address))


class Failing:
    """A file that Arrow has opened, which fails once in the middle of each of the first reads."""

    def __init__(self, file: Any, failures: list[Exception]) -> None:
        self.file, self.failures = file, failures

    def seek(self, place: int) -> None:
        self.file.seek(place)

    def read(self, count: int) -> bytes:
        if self.failures and self.file.tell() > 500_000:
            raise self.failures.pop()
        return self.file.read(count)

    def close(self) -> None:
        self.file.close()


def test_a_read_that_fails_is_tried_again_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(archive())
    failures: list[Exception] = [OSError("AWS Error NETWORK_CONNECTION"), streams.pa.ArrowInvalid("odd")]
    from_uri = streams.fs.FileSystem.from_uri

    class FileSystem:
        def __init__(self, filesystem: Any) -> None:
            self.get_file_info = filesystem.get_file_info
            self.open_input_file = lambda path: Failing(filesystem.open_input_file(path), failures)

    class Fake:
        FileType = streams.fs.FileType

        class FileSystem:
            @staticmethod
            def from_uri(address: str) -> Any:
                filesystem, path = from_uri(address)
                return FileSystem(filesystem), path

    monkeypatch.setattr(streams, "fs", Fake)
    bar = Bar()
    assert get(tmp_path / "cache", f"file://{source}", bar=bar).path.read_bytes() == source.read_bytes()
    assert not failures and [done > 500_000 for _, _, done in bar.started] == [False, True, True]
    failures += [OSError("gone")] * 9
    with pytest.raises(ValueError, match=r"no more bytes came in 5 attempts, .*it cannot be read on \(gone\)"):
        get(tmp_path / "other", f"file://{source}")


def test_a_full_disk_stays_what_it_is(server: Server, tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limit[1]))
    try:
        with pytest.raises(OSError) as error:
            get(tmp_path, f"{server.address}/a")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert error.value.errno == errno.EFBIG, "as a stage expects it"
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content


def test_what_is_overwritten_counts_as_space(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = killed(tmp_path, f"{server.address}/a")
    server.etag = '"two"'  # so that it begins again
    free = len(server.content) - part.stat().st_size
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free - 1}))
    with pytest.raises(ValueError, match=r"faces\.zip needs .*`scadm gc`.*symbolic link") as error:
        get(tmp_path, f"{server.address}/a")
    assert "storage.root" not in str(error.value), "which does not move the downloads"
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content


def test_every_answer_is_closed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one of which nothing was taken, because it is of another version than what is there."""
    opened, closed = [], []
    ask, close = requests.get, requests.Response.close

    def asking(*given: Any, **options: Any) -> requests.Response:
        opened.append(ask(*given, **options))
        return opened[-1]

    def closing(response: requests.Response) -> None:
        closed.append(response)
        close(response)

    monkeypatch.setattr(streams.requests, "get", asking)
    monkeypatch.setattr(requests.Response, "close", closing)
    server.etag = None
    killed(tmp_path, f"{server.address}/a")
    server.content += b"\0" * 9  # its size alone tells that it is another one
    assert get(tmp_path, f"{server.address}/a").path.read_bytes() == server.content
    assert len(opened) == 3 and all(response in closed for response in opened)


# --- slow, and from elsewhere ---------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
def test_a_slow_server_is_waited_for(server: Server, tmp_path: Path, chunked: bool) -> None:
    """The first pieces are smaller than what is looked at."""
    server.piece, server.pause, server.chunked = 900 if chunked else 40_000, 0.0001 if chunked else 0.01, chunked
    bar = Bar()
    assert get(tmp_path, f"{server.address}/a", bar=bar).path.read_bytes() == server.content
    assert len(server.asked) == 1 and bar.bytes == len(server.content)
    assert bar.started == [("faces.zip", 0 if chunked else len(server.content), 0)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty bucket of an S3 server on this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")  # what moto accepts: anything
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    boto3.client("s3").create_bucket(Bucket="mirror")
    yield "s3://mirror"
    server.stop()


def test_a_file_comes_from_s3_and_goes_on_there(bucket: str, tmp_path: Path) -> None:
    content = archive()
    boto3.client("s3").put_object(Bucket="mirror", Key="a/faces.zip", Body=content)
    address = f"{bucket}/a/faces.zip"
    with pytest.raises(ValueError, match=r"a/none\.zip: there is no file(.|\n)*s3://mirror/a: it is a folder.* a zip"):
        get(tmp_path, f"{bucket}/a/none.zip", f"{bucket}/a")
    size = killed(tmp_path, address).stat().st_size
    bar = Bar()
    found = get(tmp_path, address, bar=bar)
    assert found.path.read_bytes() == content and found.record.address == address
    assert bar.started == [("faces.zip", len(content), size)]
