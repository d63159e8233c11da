"""Two mmdet configs are enough: what the student's says, what is derived, what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from detkds.data import ShapesFiles, make_shapes, read_annotations
from detkds.data.synthetic import CLASSES
from detkds.search.plans import keys
from detkds.search.plans.full import student_training
from detkds.search.plans.jobs import completed
from detkds.search.plans.plan import Plan, make_data, make_plan
from detkds.settings import SearchConfig
from detkds.settings.load import merge, validated
from detkds.space import WrongUse
from two_configs import (
    AUGMENTED,
    FIXED,
    LOAD,
    PACK,
    shapes_set,
    user_config,
    weights_of,
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> ShapesFiles:
    return make_shapes(tmp_path_factory.mktemp("shapes"), train=12, val=4, test=4, size=64)


@pytest.fixture(scope="module")
def student(files: ShapesFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return user_config(tmp_path_factory.mktemp("configs"), files)


@pytest.fixture(scope="module")
def weights(student: Path) -> Path:
    return weights_of(student, student.with_name("teacher.pth"))


def sections(student: Path, weights: Path | None = None, **changes: Any) -> dict[str, Any]:
    teacher = {"config": str(student), "checkpoint": weights and str(weights)}
    given = {"student": {"config": str(student)}, "teacher": teacher}
    return merge(given, changes)


def planned(folder: Path, student: Path, weights: Path, **changes: Any) -> Plan:
    given, _ = completed(sections(student, weights, **changes), folder)
    return make_plan(validated(SearchConfig, given, "config"), folder)


def test_the_students_config_is_the_job(
    student: Path, weights: Path, files: ShapesFiles, tmp_path: Path
) -> None:
    given, notes = completed(sections(student, weights), tmp_path)
    config = validated(SearchConfig, given, "config")
    assert config.data.train.annotations == str(files.train)
    assert config.data.test.annotations == str(files.test)
    loader = config.job["train_dataloader"]
    assert [one["type"] for one in loader["dataset"]["pipeline"]] == [o["type"] for o in AUGMENTED]
    assert loader["batch_sampler"] == {"type": "AspectRatioBatchSampler"}
    assert config.job["default_hooks"]["checkpoint"]["type"] == "CheckpointHook"
    final = config.final
    assert (final.epochs, final.batch_size, final.compare) == (2, 4, [])
    assert final.optim_wrapper["optimizer"]["lr"] == 0.01
    assert [one["type"] for one in final.param_scheduler] == ["LinearLR", "MultiStepLR"]
    assert (config.proxy.train_images, config.proxy.val_images) == (8, 4)
    assert config.trial.epochs == 1
    assert config.trial.param_scheduler[0]["end"] == 1, "a warm-up of 500 iterations would not end"
    said = "\n".join(notes)
    for part in ("of 12 training images", "train on 8", "on 4 others", "1 of 2 epochs", "seeds: 0"):
        assert part in said


def test_what_is_given_stays(student: Path, weights: Path, tmp_path: Path) -> None:
    changes = {"trial.epochs": 3, "proxy.val_images": 2, "final.optim_wrapper.optimizer.lr": 0.5}
    changes |= {"final.epochs": 4, "search.seed": 7, "job.custom_hooks": [{"type": "EMAHook"}]}
    given, notes = completed(sections(student, weights, **changes), tmp_path)
    config = validated(SearchConfig, given, "config")
    assert (config.trial.epochs, config.final.epochs, config.proxy.val_images) == (3, 4, 2)
    assert config.proxy.train_images == 8
    assert config.final.optim_wrapper["optimizer"]["lr"] == 0.5
    assert config.trial.optim_wrapper["optimizer"]["lr"] == 0.01
    milestones = [one.param_scheduler[1]["milestones"] for one in (config.final, config.trial)]
    assert milestones == [[16, 22], [12, 15]], "epochs move milestones: of 2 to 4, of 1 to 3"
    assert config.job["custom_hooks"] == [{"type": "EMAHook"}]
    assert "7 of the search" in "\n".join(notes)


def test_a_resolved_config_comes_to_the_same_plan(
    student: Path, weights: Path, tmp_path: Path
) -> None:
    plan = planned(tmp_path, student, weights)
    again = validated(SearchConfig, plan.config.model_dump(exclude_defaults=True), "config")
    other = make_plan(again, tmp_path)
    assert other == plan
    assert other.conditions == plan.conditions


def test_the_proxy_takes_the_place_of_the_innermost_files(
    student: Path, weights: Path, files: ShapesFiles, tmp_path: Path
) -> None:
    more = make_shapes(tmp_path / "more", train=6, val=1, test=1, size=64, seed=5)
    sets = [shapes_set(one, "train", AUGMENTED) for one in (files, more)]
    repeated = {"type": "RepeatDataset", "times": 2, "dataset": sets[0]}
    joined = {"type": "ConcatDataset", "datasets": [repeated, sets[1]]}
    config = user_config(tmp_path, files, joined)
    plan = planned(tmp_path / "run", config, weights)
    make_data(plan)
    train, val = plan.proxy
    drawn = [read_annotations(part.annotations)["images"] for part in train.parts]
    held_out = read_annotations(val.annotations)["images"]
    assert sum(map(len, drawn)) == 12
    assert all(drawn), "each set has its share"
    assert len(held_out) == 6
    names = [
        str((Path(split.images) / image["file_name"]).resolve())
        for split, images in (*zip(train.parts, drawn, strict=True), (val, held_out))
        for image in images
    ]
    assert len(set(names)) == 18
    assert all(Path(name).is_file() for name in names)


@pytest.mark.slow
def test_keys_follow_the_jobs_content_and_not_its_place(
    student: Path, weights: Path, files: ShapesFiles, tmp_path: Path
) -> None:
    plan = planned(tmp_path, student, weights)
    assert keys.condition_values(plan.config, plan.trial_keys)["job"]

    def known(**changes: Any) -> tuple[str, str]:
        other = planned(tmp_path, student, weights, **changes)
        return other.conditions, student_training(other, "none", None, 0).folder

    base = known()
    same = {"default_hooks.logger.interval": 7, "visualizer.name": "mine", "log_level": "ERROR"}
    for key, value in same.items():
        assert known(**{f"job.{key}": value}) == base, key
    for key, value in {
        "train_dataloader.dataset.pipeline.3.crop_size": (48, 48),
        "train_dataloader.sampler.shuffle": False,
        "custom_hooks": [{"type": "EMAHook"}],
    }.items():
        changed = known(**{f"job.{key}": value})
        assert changed[0] != base[0], key
        assert changed[1] != base[1], key
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / "train.json").write_text(Path(files.train).read_text())
    moved = {"ann_file": str(copied / "train.json"), "data_prefix": {"img": str(files.images)}}
    config = user_config(tmp_path, files, shapes_set(files, "train", AUGMENTED, **moved))
    other = planned(tmp_path, config, weights)
    assert other.conditions == plan.conditions, "the same content at another place"


@pytest.mark.slow
def test_the_users_own_transform_is_imported_and_counts(
    weights: Path, files: ShapesFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / "my_dim.py"
    code.write_text(
        "from mmdet.registry import TRANSFORMS\n"
        "@TRANSFORMS.register_module(force=True)\n"
        "class Dim:\n"
        "    def __call__(self, results):\n"
        "        results['img'] = results['img'] // 2\n"
        "        return results\n"
    )
    pipeline = [*AUGMENTED[:-1], {"type": "Dim"}, PACK]
    train = shapes_set(files, "train", pipeline)
    config = user_config(tmp_path, files, train, custom_imports={"imports": ["my_dim"]})
    plan = planned(tmp_path / "run", config, weights)
    assert plan.task.student.imports == ["my_dim"]
    code.write_text(code.read_text().replace("// 2", "// 4"))
    assert planned(tmp_path / "run", config, weights).conditions != plan.conditions


def refused(student: Path, weights: Path, folder: Path, **changes: Any) -> str:
    with pytest.raises(WrongUse) as wrong:
        planned(folder / "run", student, weights, **changes)
    assert not (folder / "run").exists()
    return str(wrong.value)


@pytest.mark.parametrize(
    "part", ["train_dataloader", "val_dataloader", "val_evaluator", "train_cfg", "optim_wrapper"]
)
def test_a_config_that_lacks_a_part_is_told_which(
    files: ShapesFiles, weights: Path, tmp_path: Path, part: str
) -> None:
    config = user_config(tmp_path, files, **{part: None})
    said = refused(config, weights, tmp_path)
    assert said.startswith(f"student: {config} has no `{part}`, ")
    assert "add it to that config, or give a search config with the sections data" in said


def over_iterations(files: ShapesFiles, folder: Path, **loop: Any) -> Path:
    """A student's config as mmdet's 90k schedules: 12 images, 4 in a batch, in 10 iterations."""
    steps = [
        {"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": 2},
        {"type": "MultiStepLR", "by_epoch": False, "begin": 0, "end": 10, "milestones": [6, 8]},
        {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 2, "T_max": 8, "end": 10},
    ]
    return user_config(
        folder,
        files,
        train_cfg={
            **{"_delete_": True, "type": "IterBasedTrainLoop", "max_iters": 10},
            **{"val_interval": 7, "dynamic_intervals": [(9, 1)], **loop},
        },
        param_scheduler=steps,
        **{"train_dataloader.sampler": {"_delete_": True, "type": "InfiniteSampler"}},
    )


def test_a_loop_over_iterations_becomes_whole_epochs(files: ShapesFiles, tmp_path: Path) -> None:
    given, notes = completed(sections(over_iterations(files, tmp_path)), tmp_path)
    config = validated(SearchConfig, given, "config")
    assert config.final.epochs == 4, "ten iterations, of three in an epoch"
    assert config.job["train_cfg"] == {"val_interval": 3, "dynamic_intervals": [(3, 1)]}
    loader = config.job["train_dataloader"]
    assert loader["sampler"] == {"type": "DefaultSampler", "shuffle": True}
    assert [one.get("milestones") for one in config.final.param_scheduler] == [None, [6, 8], None]
    # A trial: two epochs of 8 images are 4 of the training's 12 iterations.
    assert config.trial.epochs == 2
    warmup, steps, cosine = config.trial.param_scheduler
    assert warmup["end"] == 1
    assert (steps["milestones"], steps["end"]) == ([2, 2], 3)
    assert (cosine["begin"], cosine["T_max"]) == (1, 2), "it follows the warm-up"
    assert "10 iterations are 4 epochs" in "\n".join(notes)
    both, _ = completed(
        merge(sections(over_iterations(files, tmp_path)), {"final.processes": 2}), tmp_path
    )
    assert both["final"]["epochs"] == 5, "two processes go through the images twice as fast"


def test_a_loop_without_a_length_is_told(files: ShapesFiles, weights: Path, tmp_path: Path) -> None:
    for loop, says in {
        "IterBasedTrainLoop": "a IterBasedTrainLoop that says no max_iters",
        "MyLoop": "a MyLoop that says no epochs",
    }.items():
        config = user_config(tmp_path, files, train_cfg={"_delete_": True, "type": loop})
        assert says in refused(config, weights, tmp_path)


def test_a_backend_that_cannot_be_had_is_told(
    files: ShapesFiles, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detkds.workers.buildable.find_spec", lambda name: None)
    for backend, says in {
        "WandbVisBackend": "1: WandbVisBackend needs the package wandb",
        "WandVisBackend": "1.type: unknown vis_backend 'WandVisBackend': did you mean WandbVis",
    }.items():
        asked = {"visualizer.vis_backends": [{"type": "LocalVisBackend"}, {"type": backend}]}
        said = refused(user_config(tmp_path, files, **asked), weights, tmp_path)
        assert said.startswith(f"job.visualizer.vis_backends.{says}")


@pytest.mark.slow
def test_classes_that_differ_are_told(
    student: Path, files: ShapesFiles, weights: Path, tmp_path: Path
) -> None:
    key = "train_dataloader.dataset.metainfo.classes"
    for classes, says in {
        ("circle", "dot"): "lacks dot: its own are circle, square, triangle, star",
        CLASSES[::-1]: "has them in another order",
    }.items():
        said = refused(user_config(tmp_path, files, **{key: classes}), weights, tmp_path)
        assert said.startswith(f"student: {key}: ")
        assert says in said
    fewer = user_config(tmp_path, files, **{"val_dataloader.dataset.metainfo.classes": CLASSES[:2]})
    assert "differ from circle, square, triangle, star of the training set" in refused(
        fewer, weights, tmp_path
    )
    head = user_config(tmp_path, files, **{"model.bbox_head.num_classes": 5})
    assert "its head has 5 classes and the data have 4" in refused(head, weights, tmp_path)
    named = tmp_path / "named.pth"
    meta = {"dataset_meta": {"classes": ("a", "b", "c", "d")}}
    torch.save({**torch.load(weights), "meta": meta}, named)
    assert "the teacher was trained for classes ['a', 'b', 'c', 'd']" in refused(
        student, named, tmp_path
    )


def test_a_set_without_classes_has_those_of_its_type(
    files: ShapesFiles, weights: Path, tmp_path: Path
) -> None:
    plain = shapes_set(files, "train", AUGMENTED)
    del plain["metainfo"]
    said = refused(user_config(tmp_path, files, plain), weights, tmp_path)
    assert "person, bicycle, car, motorcycle, airplane, … (80 in all)" in said


def test_a_checkpoint_of_another_architecture_says_how_much_fits(
    student: Path, files: ShapesFiles, tmp_path: Path
) -> None:
    other = user_config(tmp_path, files, family="gfl", name="gfl.py")
    said = refused(student, weights_of(other, tmp_path / "gfl.pth"), tmp_path)
    assert "gfl.pth: the checkpoint fits another model: " in said
    fitting, whole = [int(word) for word in said.split() if word.isdigit()][:2]
    assert 0 < fitting < whole


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        ([LOAD[0], PACK], "drops the ground truth: 8 images with"),
        (
            [LOAD[0], {"type": "LoadAnnotations", "with_bbox": False}, PACK],
            "drops the ground truth",
        ),
        ([*LOAD, {"type": "NoSuchTransform"}, PACK], "its pipeline can't load an image: KeyError"),
        ([*LOAD], "its pipeline can't load an image"),
    ],
)
def test_a_pipeline_that_drops_ground_truth_is_told(
    files: ShapesFiles, weights: Path, tmp_path: Path, pipeline: list, says: str
) -> None:
    config = user_config(tmp_path, files, shapes_set(files, "train", pipeline))
    said = refused(config, weights, tmp_path)
    assert said.startswith("student: train_dataloader.dataset")
    assert says in said


def test_a_file_that_is_no_coco_file_and_an_unknown_wrapper_are_told(
    files: ShapesFiles, weights: Path, tmp_path: Path
) -> None:
    names = tmp_path / "trainval.txt"
    names.write_text("000005\n000007\n")
    text = shapes_set(files, "train", FIXED, ann_file=str(names))
    assert "trainval.txt" in refused(user_config(tmp_path, files, text), weights, tmp_path)
    mine = {"type": "MyWrapper", "source": shapes_set(files, "train", FIXED)}
    said = refused(user_config(tmp_path, files, mine), weights, tmp_path)
    assert "train_dataloader.dataset: MyWrapper has no `ann_file`" in said


def test_two_sources_of_one_thing_are_refused(student: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=r"data\.flip stands beside job\.train_dataloader"):
        planned(tmp_path, student, weights, **{"data.flip": 0.1})
    given, _ = completed(sections(student, weights), tmp_path)
    del given["job"]
    with pytest.raises(WrongUse, match=r"data\.image_size is missing"):
        validated(SearchConfig, given, "config")


def test_a_teacher_order_asks_for_the_section_data(
    student: Path, weights: Path, tmp_path: Path
) -> None:
    one = {"config": str(student), "checkpoint": str(weights)}
    given, _ = completed(sections(student, weights, teachers={"a": one, "b": one}), tmp_path)
    with pytest.raises(WrongUse, match=r"^teachers: an order of teachers is measured on images"):
        make_plan(validated(SearchConfig, given, "config"), tmp_path, pool=True)
