"""Every wrong use: one line that names the setting or file, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import tiny
import torch
from detkds.cli import main
from detkds.data import make_shapes
from detkds.detectors import build_detector, model_config
from refusals import right_config

SYNTHETIC = ["search", "quickstart", "--work-dir", "run", "--cfg-options", *tiny.OPTIONS]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A small real set of files."""
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=4, test=4, size=64)


@pytest.fixture
def custom(shapes):
    return ["search", *right_config(shapes)]


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; return the one line that it printed."""
    monkeypatch.chdir(tmp_path)

    def run(arguments: list, *allowed: str) -> str:
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["detkds", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        assert end.value.code == 2, said
        assert said.err.count("\n") == 1, said.err
        assert said.err.startswith("detkds: ")
        left = set(tmp_path.rglob("*")) - set(before)
        assert not [path for path in left if path.name not in allowed], left
        return said.err

    return run


def distiller(tmp_path: Path, **changes: object) -> Path:
    term = {"knowledge": "global", "transforms": ["catt"], "distance": "l1", "weight": 1.0}
    document = {"schema": "detkds/distiller/1", "name": None, "terms": [{**term, **changes}]}
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize(
    ("changes", "nearest"),
    [
        ({"knowledge": "globale"}, "global"),
        ({"transforms": ["cat"]}, "catt"),
        ({"distance": "person"}, "pearson"),
    ],
)
def test_unknown_names_in_a_distiller_file(refused, tmp_path, changes, nearest):
    file = distiller(tmp_path, **changes)
    said = refused(["train", "quickstart", "--distiller", file, "--work-dir", "run"])
    assert str(file) in said
    assert f"did you mean {nearest}?" in said


@pytest.mark.parametrize("weight", ["five", None, float("nan"), -1, True])
def test_a_weight_that_is_no_number(refused, tmp_path, weight):
    said = refused(["show", distiller(tmp_path, weight=weight)])
    assert "mine.json" in said
    assert "weight" in said


def test_a_distiller_file_of_another_version_or_truncated(refused, tmp_path):
    file = distiller(tmp_path)
    text = file.read_text()
    file.write_text(text.replace("distiller/1", "distiller/2"))
    assert "detkds/distiller/2" in refused(["show", file])
    file.write_text(text[: len(text) // 2])
    assert "not a whole JSON document" in refused(["show", file])
    assert "no such distiller" in refused(["show", "nowhere.json"])


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("search.knowledge=['globel']", "did you mean global?"),
        ("search.popluation=3", "did you mean population?"),
        ("trail.epochs=3", "did you mean trial?"),
        ("trial.epochs=0", "trial.epochs"),
        ("search.space=detkd", "search.space"),
        (
            "search.algorithm=algorithm",
            "search.algorithm: unknown algorithm 'algorithm': did you mean algorithm1?",
        ),
        ("search.algorithm=optuna:foo", "search.algorithm: unknown algorithm 'optuna:foo': "),
        ("search.trials=30", "search.trials: 30: with stages, search.population, "),
        ("search.trials=0", "search.trials: "),
        ("student.config=mmdet::retinanet/retinanet_r51.py", "did you mean"),
        ("student.config=nowhere.py", "nowhere.py"),
        ("resources.gpus=2", "resources.gpus: a process runs on one GPU"),
        ("final.processes=0", "final.processes: "),
        ("trial.processes=2", "trial.processes: a trial runs in one process"),
        ("resources.address=127.0.0.1:1", "nothing answers at 127.0.0.1:1"),
        ("search.start=['pdk']", "did you mean pkd"),
        ("search.start=['search:before']", "there is no such file"),
        ("resources.cpus=4096", "4096 CPUs"),
        ("proxy.train_images=0", "proxy.train_images: "),
        ("proxy.val_images=-1", "proxy.val_images: "),
        ("proxy.train_images=5000", "112"),
        ("student.cfg_options.model.bbox_head.num_classes=7", "7 classes"),
        ("teacher.checkpoint=nowhere.pth", "nowhere.pth"),
        ("teacher.schedule=None", "teacher.schedule"),
        ("final.compare=['none','fitnet']", "fitnet"),
        ("trial.epochs", "key=value"),
        ("data.teacher_image_size=(32,32)", "below data.image_size"),
        ("student.cfg_options.model.neck.num_outs=3", "student: its neck gives levels of stride"),
    ],
)
def test_a_wrong_option(refused, option, says):
    arguments = [*SYNTHETIC, "--cfg-options", option]
    assert says in refused(arguments)


def test_more_gpus_than_there_are(refused, monkeypatch):
    """--gpus sets two settings, and an error of either names the option, and what there is."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    train = ["train", "quickstart", "--distiller", "none", "--work-dir", "run"]
    says = "processes of 1 CPU and 1 GPU each share a training, and this machine, with 96 CPUs and"
    said = refused([*train, "--gpus", "3"])
    assert said.startswith(f"detkds: --gpus: 3 {says} 2 GPUs, has room for 2: ask for no more")
    said = refused([*train, "--cfg-options", "final.processes=3"])
    assert said.startswith(f"detkds: final.processes: 3 {says} 2 GPUs, has room for 2: ")
    said = refused([*train, "--cfg-options", "final.processes=2", "resources.gpus=0.5"])
    assert "2 processes of one training (final.processes) a part of a GPU" in said
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    said = refused([*train, "--gpus", "1"])
    assert said.startswith("detkds: --gpus: a process asks for 1 GPUs, this machine has 0: ")
    assert "--gpus" in refused([*train, "--gpus", "0"])
    said = refused([*train, "--cfg-options", "final.processes=97"])
    assert "97 processes of 1 CPU and 0 GPU each" in said


def test_fewer_trials_than_distillers_to_start_from(refused):
    options = ["search.divide=False", "search.trials=2", "search.start=['none','pkd','fitnets']"]
    said = refused([*SYNTHETIC, *options])
    assert "search.trials: 2 candidates are fewer than the 3 distillers that the search" in said
    presets = ["search.space=extended", "search.start=['presets']", "search.knowledge=None"]
    said = refused([*SYNTHETIC, *options[:2], *presets])
    assert re.search(r"search.trials: 2 candidates are fewer than the \d\d distillers", said)


@pytest.mark.parametrize(
    ("sampler", "package"), [("tpe", "optuna"), ("cmaes", "cmaes"), ("gp", "scipy")]
)
def test_a_sampler_whose_package_is_missing(refused, monkeypatch, sampler, package):
    monkeypatch.setitem(sys.modules, package, None)
    said = refused([*SYNTHETIC, f"search.algorithm=optuna:{sampler}"])
    assert said == (
        f"detkds: search.algorithm: optuna:{sampler} needs the package '{package}', which is not "
        f"installed: pip install {package}\n"
    )


def test_annotation_files(refused, custom, shapes, tmp_path):
    def with_train(path: Path) -> list[str]:
        return [*custom, "--cfg-options", f"data.train.annotations={path}"]

    assert "nowhere.json" in refused(with_train(tmp_path / "nowhere.json"))
    broken = tmp_path / "broken.json"
    broken.write_text(Path(shapes.train).read_text()[:500])
    assert "broken.json" in refused(with_train(broken))
    document = json.loads(Path(shapes.train).read_text())
    document["annotations"][0]["bbox"] = [1, 2, -3, 4]
    broken.write_text(json.dumps(document))
    assert "broken.json" in refused(with_train(broken))
    said = refused([*custom, "--cfg-options", f"data.train.images={tmp_path}"])
    assert str(tmp_path) in said


def test_classes_of_train_and_test_that_disagree(refused, custom, shapes, tmp_path):
    document = json.loads(Path(shapes.test).read_text())
    document["categories"][0]["name"] = "ellipse"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    said = refused([*custom, "--cfg-options", f"data.test.annotations={other}"])
    assert "ellipse" in said


def test_a_test_split_that_shares_training_images(refused, custom, shapes, tmp_path):
    said = refused([*custom, "--cfg-options", f"data.test.annotations={shapes.train}"])
    assert "share 12 images" in said


def test_a_proxy_that_overlaps_itself(refused, custom, shapes):
    proxy = [f"proxy.{split}.annotations={shapes.train}" for split in ("train", "val")]
    proxy += [f"proxy.{split}.images={shapes.images}" for split in ("train", "val")]
    assert "share 12 images" in refused([*custom, "--cfg-options", *proxy])


def test_a_proxy_command_that_asks_for_too_much(refused, shapes):
    said = refused(["proxy", shapes.train, "--train", "10", "--val", "5", "--out", "proxy"])
    assert "12" in said
    assert "--val" in refused(["proxy", shapes.train, "--train", "5", "--val", "0", "--out", "p"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("train paper:croskd/7/crosskd", "no such paper: did you mean crosskd?"),
        ("train paper:crosskd/77/crosskd", "no such table: did you mean 7?"),
        ("train paper:crosskd/7/croskd", "no such row: did you mean crosskd?"),
        ("train paper:crosskd/7", "no such row: choose one of student, fitnets,"),
        ("train paper:", "no such paper: choose one of detkds, crosskd, mtpd, sssd"),
        (
            "train paper:crosskd/7/fgd",
            "paper:crosskd/7/fgd: it can't be repeated: detkds has FGD in",
        ),
        ("train paper:sssd/1/sssd", "no table of the paper can be repeated"),
        ("train paper:detkds/13/20", "run detkds search coco/retinanet_r50__retinanet_x101 --cfg-"),
        ("train paper:mtpd/6/costs", "it is no training; run detkds teachers paper:mtpd/6/costs"),
        ("search paper:crosskd/7/fgd", "it can't be repeated"),
        ("papers croskd", "croskd: no such paper: did you mean crosskd?"),
        ("papers crosskd/7b", "crosskd/7b: no such table: did you mean 7?"),
        ("train quickstart", "--distiller: give a distiller file, a shipped name, or none"),
        ("train coco/gfl_r50__gfl_r101@croskd --distiller pkd", "did you mean crosskd?"),
        ("train coco/gfl_r50__gfl_r11@crosskd --distiller pkd", "no such pair: did you mean"),
        ("train coco/gfl_r50__gfl_r101@sssd --distiller sssd", "write coco/gfl_r50@sssd"),
        ("train coco/gfl_r500@sssd --distiller sssd", "did you mean gfl_r50?"),
        ("train paper:crosskd/7/crosskd --cfg-options data.multi_scale=[]", "data.multi_scale"),
        (
            "train coco/mask_rcnn_r50_333x200__mask_rcnn_r50 --distiller mtpd_two_stage "
            "--cfg-options data.multi_scale=[(333,200)]",
            "data.teacher_image_size stands beside data.multi_scale",
        ),
    ],
)
def test_rows_of_papers_and_protocols(refused, arguments, says):
    assert says in refused(arguments.split())


COSTS = {"costs": {"s": {"a": 3, "b": 2}, "a": {"b": 1}, "b": {"a": 1}}, "scores": {"a": 4, "b": 5}}


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        ("proxy shapes.json --train 0 --val 5 --out proxy", "--train"),
        ("proxy shapes.json --train 5 --val 0 --out proxy", "--val"),
        ("proxy shapes.json --train 5 --val 5 --out .", "--out"),
        ("teachers --costs nowhere.json --student s", "--costs"),
        ("teachers --costs costs.json --student t", "--student"),
        ("teachers --costs costs.json --student s --max-teachers 0", "--max-teachers"),
        ("teachers --costs costs.json --student s --algorithm sgb", "--algorithm"),
        ("train quickstart --distiller pkd --max-teachers 0", "--max-teachers"),
        ("train quickstart --distiller pkd --algorithm sgb", "--algorithm"),
        ("trials --storage nonsense", "--storage"),
        ("export quickstart --out x.json --storage nonsense", "--storage"),
    ],
)
def test_a_wrong_value_is_told_by_the_commands_own_option(
    refused, shapes, arguments, option, tmp_path
):
    (tmp_path / "shapes.json").write_text(Path(shapes.train).read_text())
    (tmp_path / "costs.json").write_text(json.dumps(COSTS))
    assert refused(arguments.split()).startswith(f"detkds: {option}")


def test_a_teacher_checkpoint_of_another_model_or_other_classes(refused, tmp_path):
    student = build_detector(
        model_config("detkds::retinanet_r18_thin.py", {"model.bbox_head.num_classes": 4})
    )
    file = tmp_path / "student.pth"
    torch.save({"state_dict": student.state_dict()}, file)
    assert "student.pth" in refused([*SYNTHETIC, f"teacher.checkpoint={file}"])
    meta = {"dataset_meta": {"classes": ("a", "b", "c", "d")}}
    torch.save({"state_dict": student.state_dict(), "meta": meta}, file)
    options = ["teacher.config=detkds::retinanet_r18_thin.py", f"teacher.checkpoint={file}"]
    assert "'a', 'b', 'c', 'd'" in refused([*SYNTHETIC, *options])


@pytest.mark.parametrize(
    "url", ["sqlite:///nowhere/deep/x.db", "mysqll://x/y", "nonsense", "postgresql+psycopg://u:secret@127.0.0.1:9/x"]
)  # fmt: skip
def test_a_storage_that_cannot_be_opened(refused, url):
    said = refused([*SYNTHETIC, "--storage", url])
    assert "--storage" in said
    assert "secret" not in said


def test_teachers_for_a_distiller_that_learns_from_none(refused):
    said = refused(["train", *SYNTHETIC[1:], "--distiller", "sssd", "--teachers", "auto"])
    assert "--teachers: sssd learns from no teacher; leave it out" in said
    alone = ["teacher=none", "inherit=True", "final.compare=['none']"]
    assert "inherit: there is no teacher" in refused([*SYNTHETIC, *alone])


def test_names_that_do_not_exist(refused, tmp_path):
    assert "detkds.db" in refused(["trials", "x", "--work-dir", "run"])
    assert "no such file" in refused(["trials", "--storage", "sqlite:///typo.db"])
    assert "no such file" in refused([*SYNTHETIC, "--resume"])
    assert "--csv no/x.csv" in refused(["trials", "--work-dir", "run", "--csv", "no/x.csv"])
    assert "a name is no path" in refused([*SYNTHETIC, "--name", "exp/cells"])
    assert "serch" in refused(["serch", "quickstart"])
    assert "quickstart" in refused(["search", "quikstart"])
    assert "--train" in refused(["proxy", "x.json", "--val", "1", "--out", "p"])


def test_knowledge_that_the_pair_cannot_share(refused):
    fcos = "teacher.config=mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"
    options = [fcos, "teacher.cfg_options.model.bbox_head.num_classes=4"]
    said = refused([*SYNTHETIC, *options])
    assert "priors" in said
    assert "teacher" in said
    assert "student" in said
