"""A download is its address's own file, whole, with the hash that its name holds, or an error."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from detkds.detectors import load_checkpoint
from detkds.detectors.downloads import named_hash
from detkds.space import WrongUse


class Handler(SimpleHTTPRequestHandler):
    """Serves files; of a file called ``half.pth``, the first half and then nothing more."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "half" in self.path else content)

    def log_message(self, *_: Any) -> None:
        pass


class Site:
    """A web site: its folder, its address and the cache that downloads from it go to."""

    def __init__(self, folder: Path, cache: Path, port: int) -> None:
        self.folder, self.cache, self.address = folder, cache, f"http://127.0.0.1:{port}"

    def put(self, name: str, value: float) -> Path:
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        torch.save({"state_dict": {"a": torch.tensor(value)}}, file)
        return file

    def load(self, name: str) -> float:
        return float(load_checkpoint(f"{self.address}/{name}")["state_dict"]["a"])

    def refusal(self, name: str) -> str:
        with pytest.raises(WrongUse) as caught:
            self.load(name)
        message = str(caught.value)
        assert message.startswith(f"{self.address}/{name}: ")
        assert "\n" not in message
        return message

    @property
    def kept(self) -> list[str]:
        return sorted(file.name for file in self.cache.rglob("*") if file.is_file())


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "www").mkdir()
    served = lambda *arguments: Handler(*arguments, directory=str(tmp_path / "www"))  # noqa: E731
    with ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        Thread(target=server.serve_forever, args=(0.02,)).start()
        yield Site(tmp_path / "www", tmp_path / "home", server.server_port)
        server.shutdown()


def test_an_address_is_downloaded_once(site: Site) -> None:
    file = site.put("weights.pth", 1.0)
    assert site.load("weights.pth?version=1") == 1
    file.unlink()
    assert site.load("weights.pth?version=1") == 1
    assert "can't download the checkpoint: HTTP Error 404" in site.refusal("absent.pth")
    assert site.kept == ["weights.pth"]


def test_addresses_of_one_name_are_files_of_their_own(site: Site) -> None:
    for name, value in (("a/epoch_12.pth", 1.0), ("b/epoch_12.pth", 2.0)):
        site.put(name, value)
        assert site.load(name) == value
    assert site.load("a/epoch_12.pth") == 1


def test_a_file_must_have_the_hash_of_its_name(site: Site) -> None:
    content = site.put("right.pth", 1.0).read_bytes()
    right = f"retinanet_20200130-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (site.folder / right).write_bytes(content)
    assert site.load(right) == 1
    site.put("retinanet_20200130-0badcafe.pth", 2.0)
    message = site.refusal("retinanet_20200130-0badcafe.pth")
    assert "can't download" not in message
    assert "its name says 0badcafe" in message
    assert "give the file" in message
    assert site.kept == [right], "a wrong file is not kept"


def test_a_wrong_file_in_the_cache_is_downloaded_again(site: Site) -> None:
    """torch.hub, which checks nothing, keeps downloads of other programs in the same place."""
    content = site.put("right.pth", 1.0).read_bytes()
    right = f"resnet50-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (site.folder / right).write_bytes(content)
    cached = site.cache / "hub" / "checkpoints" / right
    cached.parent.mkdir(parents=True)
    torch.save({"state_dict": {"a": torch.tensor(2.0)}}, cached)
    assert site.load(right) == 1
    assert cached.read_bytes() == content


def test_a_download_that_breaks_off_leaves_nothing(site: Site) -> None:
    file = site.put("half.pth", 1.0)
    size = file.stat().st_size
    assert f"ended after {size // 2} of {size} bytes; try again" in site.refusal("half.pth")
    assert site.kept == []


@pytest.mark.parametrize("address", ["http://", "http://[1", "http://127.0.0.1:1/x.pth"])
def test_an_address_without_an_answer_is_refused(site: Site, address: str) -> None:
    with pytest.raises(WrongUse, match="can't download the checkpoint: "):
        load_checkpoint(address)
    assert site.kept == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth", "047c8118"),
        ("resnet50-11ad3fa6.pth", "11ad3fa6"),
        ("mine-20240131.pth", None),
        ("epoch_12.pth", None),
        ("detector-final.pth", None),
    ],
)
def test_the_hash_of_a_name(name: str, expected: str | None) -> None:
    assert named_hash(name) == expected
