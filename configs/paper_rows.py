"""The rows of the papers' tables: what each takes, what the paper printed, and how to run it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from ..space import WrongUse, nearest
from .pairs import (
    coco_models,
    coco_pairs,
    model_section,
    pair_layers,
    protocols,
    read_json,
    trained,
)

#: How a reference to a row begins: ``paper:PAPER/TABLE/ROW``.
PAPER = "paper:"
#: The images that all rows need.
DATA = (
    "COCO 2017 in data/coco: train2017, val2017, annotations/instances_train2017.json and "
    "annotations/instances_val2017.json (or set data.train and data.test)"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a paper's table. A row that can't be repeated has ``why`` and no ``distiller``."""

    paper: str
    table: str
    name: str
    #: What the paper printed, in the metric; None where that is no single number.
    published: float | None
    #: What is published: box AP, mask AP, ...
    metric: str
    #: ``STUDENT__TEACHER``, with ``@PROTOCOL`` for another protocol than the pair's own.
    pair: str = ""
    #: A shipped distiller's name, terms in arrow notation, or ``none``.
    distiller: str | None = None
    #: The teachers that teach one after the other, first to last; ``auto``: ordered by
    #: ``algorithm``, at most ``max_teachers``. Empty: the pair's teacher alone.
    teachers: tuple[str, ...] | Literal["auto"] = ()
    algorithm: str = "bgs"
    max_teachers: int | None = None
    #: Whether the teachers teach at once.
    simultaneous: bool = False
    #: The epochs in all, if they are not the protocol's.
    epochs: int | None = None
    #: The subcommand that repeats the row.
    run: str = "train"
    #: Why the row can't be repeated; None: it can.
    why: str | None = None
    #: Another command that repeats what a row reports that is no training.
    instead: str | None = None
    #: Where the row departs from the paper.
    note: str = ""
    #: The teachers that a paper numbers, each with ``model`` and ``score``.
    numbered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    @property
    def reference(self) -> str:
        return f"{PAPER}{self.paper}/{self.table}/{self.name}"

    @property
    def command(self) -> str | None:
        """The command that repeats the row, or None."""
        return f"detkds {self.run} {self.reference}" if self.why is None else self.instead

    @property
    def order(self) -> str | None:
        """The teachers as ``detkds train --teachers`` takes them, or None."""
        return self.teachers if self.teachers == "auto" else ",".join(self.teachers) or None

    @property
    def pool(self) -> dict[str, dict[str, Any]]:
        """The models of the teachers that teach in sequence or at once, by name, with scores."""
        names: Iterable[str] = self.teachers
        if self.teachers == "auto":
            names = [name for name in self.numbered if name != "V"]
        return {name: dict(self.numbered.get(name, {"model": name})) for name in names}

    @property
    def pairs(self) -> list[str]:
        """The pairs of the student and each teacher, ``STUDENT__TEACHER``."""
        name = self.pair.partition("@")[0]
        student = name.partition("__")[0]
        pool = [f"{student}__{entry['model']}" for entry in self.pool.values()]
        return pool or [name]

    @property
    def needs(self) -> list[str]:
        """The weights that a run of the row needs, besides its backbone's."""
        if self.why is not None:
            return []
        name, _, chosen = self.pair.partition("@")
        student = name.partition("__")[0]
        needs = []
        if protocols()[chosen or coco_pairs()[name]["protocol"]]["student_checkpoint"]:
            weights = coco_models()[student].get("checkpoint") or (
                f"data/checkpoints/{student}.pth, its weights after 12 epochs alone"
            )
            needs.append(f"{student}: {weights}")
        if self.distiller == "none":
            return needs
        teachers = [pair.partition("__")[2] for pair in self.pairs]
        trains = trained([coco_models()[name] for name in teachers]).get("schedule")
        for teacher in teachers:
            checkpoint = coco_models()[teacher].get("checkpoint")
            if checkpoint:
                needs.append(f"{teacher}: {checkpoint}")
            elif trains:
                needs.append(f"{teacher}: trained first, {trains['epochs']} epochs")
            else:
                section = f"teachers.{teacher}" if self.pool else "teacher"
                needs.append(f"{teacher}: not in the model zoo, give {section}.checkpoint")
        return needs


@dataclass(frozen=True)
class Table:
    """A table of a paper, or a part of one."""

    name: str
    title: str
    note: str
    rows: dict[str, Row]


@dataclass(frozen=True)
class Paper:
    """A paper and the tables of it that can be read for certain."""

    name: str
    title: str
    note: str
    tables: dict[str, Table]


@cache
def papers() -> dict[str, Paper]:
    """The papers of ``coco/papers.json``, by name."""
    document = read_json("papers.json")
    return {
        name: Paper(
            name,
            paper["title"],
            paper.get("note", ""),
            {key: _table(document["reasons"], name, paper, key) for key in paper["tables"]},
        )
        for name, paper in document["papers"].items()
    }


def _table(reasons: Mapping[str, str], name: str, paper: Mapping[str, Any], key: str) -> Table:
    table = paper["tables"][key]
    rows = {}
    for row, content in table["rows"].items():
        own = {"pair": table.get("pair", ""), "metric": table.get("metric", "box AP"), **content}
        if "why" in own:
            own["why"] = reasons[own["why"]]
        if isinstance(own.get("teachers"), list):
            own["teachers"] = tuple(own["teachers"])
        rows[row] = Row(paper=name, table=key, name=row, numbered=paper.get("teachers", {}), **own)
    return Table(key, table["title"], table.get("note", ""), rows)


def selected(reference: str | None) -> Iterator[tuple[Paper, list[Table]]]:
    """Papers, each with the tables that ``reference`` selects.

    ``reference``: ``PAPER``, ``PAPER/TABLE``, or None for all. Raises :class:`WrongUse`, with the
    nearest name, if there is no such paper or table.
    """
    if reference is None:
        yield from ((paper, list(paper.tables.values())) for paper in papers().values())
        return
    name, _, key = reference.removeprefix(PAPER).partition("/")
    found = _paper(name, reference)
    yield found, [paper_table(name, key, reference)] if key else list(found.tables.values())


def records(reference: str | None) -> list[dict[str, Any]]:
    """The selected rows as JSON content."""
    return [
        {
            "row": row.reference,
            "table": table.title,
            "metric": row.metric,
            "published": row.published,
            "command": row.command,
            "why not": row.why,
            "pair": row.pair or None,
            "distiller": row.distiller,
            "needs": [*row.needs, *([] if row.why else [DATA])],
            "note": row.note or None,
        }
        for _, tables in selected(reference)
        for table in tables
        for row in table.rows.values()
    ]


def paper_row(reference: str) -> Row:
    """The row ``paper:PAPER/TABLE/ROW``.

    Raises :class:`WrongUse`, with the nearest name, for a paper, a table or a row that is not
    there, and for a row that can't be repeated, with the reason.
    """
    name, _, rest = reference.removeprefix(PAPER).partition("/")
    key, _, row = rest.partition("/")
    table = paper_table(name, key, reference)
    if row not in table.rows:
        raise WrongUse(f"{reference}: no such row: {nearest(row, table.rows)}")
    found = table.rows[row]
    if found.why is not None:
        instead = f"; run {found.instead}" if found.instead else ""
        raise WrongUse(f"{reference}: it can't be repeated: {found.why}{instead}")
    return found


def paper_table(name: str, key: str, reference: str) -> Table:
    """A table of a paper. ``reference``: what the user wrote, for errors."""
    paper = _paper(name, reference)
    if not paper.tables:
        raise WrongUse(f"{reference}: no table of the paper can be repeated: {paper.note}")
    if key not in paper.tables:
        raise WrongUse(f"{reference}: no such table: {nearest(key, paper.tables)}")
    return paper.tables[key]


def _paper(name: str, reference: str) -> Paper:
    if name not in papers():
        raise WrongUse(f"{reference}: no such paper: {nearest(name, papers())}")
    return papers()[name]


def row_layers(row: Row) -> list[dict[str, Any]]:
    """What a row sets in base.py, first to last."""
    layers = pair_layers(row.pair)
    if row.pool:
        layers.append(_teachers_layer(row.pool))
    if row.epochs is not None:
        layers.append({"final": {"epochs": row.epochs}})
    return layers


def _teachers_layer(pool: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    models = {name: coco_models()[entry["model"]] for name, entry in pool.items()}
    return {
        "teacher": trained(models.values()),
        "teachers": {
            name: {
                **model_section(model),
                "score": pool[name].get("score"),
                "image_size": model.get("data", {}).get("image_size"),
            }
            for name, model in models.items()
        },
    }
