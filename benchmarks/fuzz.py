"""Malformed files of the kinds that are not trusted: a right answer or one line, never code run.

    python benchmarks/fuzz.py [--files 10000] [--seed 0] [--kind distiller]

Distiller files, checkpoints, annotations and databases are spoilt: bytes are flipped, cut out,
repeated or put in; a value of JSON, of a pickle or of a row is replaced by another; pickles get
instructions that call functions. Each file is read as detkds reads it. Prints, for each kind, how
many were read and how many refused, and the first that was neither.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import pickle
import random
import sqlite3
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detkds.data import read_annotations
from detkds.db import Store
from detkds.db.maintenance import check
from detkds.detectors.checkpoints import load_weights
from detkds.space import Candidate, Distiller, Outcome, SearchFailed, Status, WrongUse
from torch import nn

#: What takes the place of a value of JSON or of a row.
VALUES: list[Any] = [
    None, True, -1, 0, 2**63, 2**70, 1e308, -0.0, float("nan"), float("inf"), "", "x", "\0",
    "\x1b[2J", "\ud800", "../../x", "[/x]", [], {}, [[]], {"a": []}, [None] * 3, "9" * 400,
]  # fmt: skip
TABLES = ("searches", "trials", "trainings", "leases", "adaptation_costs", "alembic_version")


class Call:
    """Its pickle calls a function that leaves a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.canary),))


def spoil_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes with up to three accidents."""
    spoilt = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(spoilt) + 1)
        end = min(len(spoilt), start + rng.choice([1, 4, 64, 1024]))
        kind = rng.randrange(5)
        if kind == 0:
            del spoilt[start:]
        elif kind == 1:
            del spoilt[start:end]
        elif kind == 2:
            spoilt[start:start] = spoilt[start:end]
        elif kind == 3:
            spoilt[start:end] = rng.randbytes(end - start)
        elif start < len(spoilt):
            spoilt[start] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def spoil_json(content: bytes, rng: random.Random) -> bytes:
    """A document in which up to three values are replaced, removed or renamed; or bytes spoilt."""
    if rng.random() < 0.3:
        return spoil_bytes(content, rng)
    document = json.loads(content)
    for _ in range(rng.randint(1, 3)):
        place, key = rng.choice(list(_places(document)))
        if rng.random() < 0.2 and isinstance(place, dict):
            place[rng.choice(["x", "schema", "\x1b[2J", "terms"])] = place.pop(key)
        elif rng.random() < 0.2:
            del place[key]
        else:
            place[key] = copy.deepcopy(rng.choice(VALUES))
        if not list(_places(document)):
            break
    if rng.random() < 0.02:
        return b"[" * 100_000
    return json.dumps(document).encode()


def _places(value: Any) -> Any:
    """Every (container, key) of a document."""
    items = enumerate(value) if isinstance(value, list) else ()
    for key, inner in value.items() if isinstance(value, dict) else items:
        yield value, key
        yield from _places(inner)


@dataclass
class Kind:
    """Files of one kind: a right one, how to spoil one, and how detkds reads one."""

    name: str
    right: bytes
    spoil: Callable[[bytes, random.Random], bytes]
    read: Callable[[Path], object]


def distiller_kind() -> Kind:
    document = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5\nlogits: norm_n, l2 × 1")
    whole = {**document.to_dict(), "name": "x", "provenance": {"search": "a", "trial": 3}}

    def read(path: Path) -> None:
        str(Distiller.from_json(path).key)

    return Kind("distiller", json.dumps(whole).encode(), spoil_json, read)


def annotation_kind() -> Kind:
    document = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 7, "name": "b"}],
        "annotations": [
            {"id": n, "image_id": 1 + n % 3, "category_id": 7, "bbox": [1, 2, 3.5, 4], "area": 14.0,
             "iscrowd": 0, "segmentation": [[1, 2, 3, 4, 5, 6]]}
            for n in range(4)
        ],
    }  # fmt: skip
    return Kind("annotation", json.dumps(document).encode(), spoil_json, read_annotations)


def checkpoint_kind(canary: Path) -> Kind:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    meta = {"epoch": 1, "loss": np.float32(0.5), "lr": np.arange(3.0), "classes": ("a", "b")}
    buffer = io.BytesIO()
    torch.save({"state_dict": model.state_dict(), "meta": meta}, buffer)
    call = pickle.dumps(Call(canary), 2)

    def spoil(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return spoil_bytes(content, rng)
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as other:
            for name in archive.namelist():
                part = archive.read(name)
                if name.endswith("data.pkl"):
                    part = spoil_pickle(part, rng)
                elif rng.random() < 0.1:
                    part = spoil_bytes(part, rng) if part else b"x"
                if rng.random() > 0.02:
                    other.writestr(name, part)
        return out.getvalue()

    def spoil_pickle(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            # The call of a function, without its frame, somewhere among the instructions.
            place = rng.choice([2, len(content) - 1, rng.randrange(2, len(content))])
            return content[:place] + call[2:-1] + content[place:]
        return spoil_bytes(content, rng)

    def read(path: Path) -> None:
        load_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), path)

    return Kind("checkpoint", buffer.getvalue(), spoil, read)


def database_kind(folder: Path) -> Kind:
    original = folder / "original.db"
    with Store(f"sqlite:///{original}") as store:
        search = store.create_search("a", {"search": {"start": []}}, "c", 0)
        form = Distiller.parse("global: catt → scale_2 → norm_n, l1 × 5")
        for number in range(4):
            trial = store.add_trial(search.id, Candidate(number, "global", form), number, "c", 0)
            store.start_trial(trial, "host", "cpu")
            store.tell_trial(trial, Outcome(Status.COMPLETED, 0.5, {"bbox_mAP": 0.5}), number)
        store.finish_training(
            store.add_training("pkd", 0, "test", "c", search.id, form), Outcome(Status.COMPLETED)
        )
        with store.held("a"):
            pass
    with sqlite3.connect(original) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    right = original.read_bytes()
    scratch = folder / "scratch.db"

    def spoil(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return spoil_bytes(content, rng)
        scratch.write_bytes(content)
        connection = sqlite3.connect(scratch)
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for _ in range(rng.randint(1, 3)):
            table = rng.choice(TABLES)
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            value = rng.choice([v for v in VALUES if not isinstance(v, int) or abs(v) < 2**63])
            if isinstance(value, list | dict):
                value = json.dumps(value)
            try:
                if rng.random() < 0.1:
                    connection.execute(f"DROP TABLE {table}")
                else:
                    connection.execute(f"UPDATE {table} SET {rng.choice(columns)} = ?", (value,))
            except (sqlite3.Error, UnicodeEncodeError, IndexError):
                continue
        connection.commit()
        connection.close()
        return scratch.read_bytes()

    def read(path: Path) -> None:
        url = f"sqlite:///{path}"
        with Store(url, create=False, patience=0) as store:
            for search in store.searches():
                store.counts(search.id)
                store.best(search.id)
                store.trial_records(search.id)
            store.trial_records()
            store.trainings()
            store.scored("c", "x")
            name = "a"
            with store.held(name):
                store.find_search(name)
        check(url)

    return Kind("database", right, spoil, read)


def kinds(folder: Path) -> list[Kind]:
    """The four kinds; ``folder`` is theirs."""
    kinds_ = [distiller_kind(), annotation_kind()]
    return [*kinds_, checkpoint_kind(folder / "canary"), database_kind(folder)]


def fuzz(kind: Kind, files: int, seed: int, folder: Path) -> Counter[str]:
    """Read spoilt files of a kind; raises AssertionError for one that is neither read nor refused.

    Returns how many were ``read`` and how many ``refused``.
    """
    kind.read(_written(kind.right, folder))
    counts: Counter[str] = Counter()
    for number in range(files):
        rng = random.Random(f"{kind.name}/{seed}/{number}")
        path = _written(kind.spoil(kind.right, rng), folder)
        try:
            kind.read(path)
            counts["read"] += 1
        except (WrongUse, SearchFailed) as error:
            counts["refused"] += 1
            if "\n" in str(error):
                raise AssertionError(f"{kind.name} {number}: several lines: {error}") from error
        except Exception as error:
            raise AssertionError(f"{kind.name} {number}: {error!r}") from error
        assert not (folder / "canary").exists(), f"{kind.name} {number}: code was run"
    return counts


def _written(content: bytes, folder: Path) -> Path:
    """A file of its own, without what SQLite keeps beside the last."""
    for old in folder.glob("spoilt*"):
        old.unlink()
    path = folder / "spoilt"
    path.write_bytes(content)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for kind in kinds(Path(name)):
            if arguments.kind in (None, kind.name):
                start = time.perf_counter()
                counts = fuzz(kind, arguments.files, arguments.seed, Path(name))
                seconds = time.perf_counter() - start
                print(f"{kind.name:10} {dict(counts)} in {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
