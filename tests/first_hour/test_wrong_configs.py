"""Wrong uses of configs and options: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import json

import pytest
import stored_search
from detkds.db import Store

NO_SUCH = "{'epochs':1,'batch_size':8,'optim_wrapper':{'optimizer':{'type':'x'}}}"
#: An option, and what is said of it.
OPTIONS = {
    "trial.optim_wrapper.optimizer.type=Adamw": (
        "trial.optim_wrapper.optimizer.type: unknown optimizer 'Adamw': did you mean AdamW?"
    ),
    "teacher.schedule.optim_wrapper.optimizer.type=SGDD": (
        "teacher.schedule.optim_wrapper.optimizer.type: unknown optimizer 'SGDD': did you mean SGD?"
    ),
    f"teachers.r18.schedule={NO_SUCH}": (
        "teachers.r18.schedule.optim_wrapper.optimizer.type: unknown optimizer 'x': choose one of "
    ),
    "final.optim_wrapper.optimizer.type=Adamw": "final.optim_wrapper.optimizer.type: unknown",
    "final.optim_wrapper.type=OptimWraper": (
        "final.optim_wrapper.type: unknown optim_wrapper 'OptimWraper': did you mean OptimWrapper?"
    ),
    "final.optim_wrapper.optimizer.lrr=1": (
        "final.optim_wrapper: mmengine can't build it: AdamW.__init__() got an unexpected keyword"
    ),
    "final.optim_wrapper.optimizer.lr=fast": "final.optim_wrapper: mmengine can't build it: ",
    "final.optim_wrapper.constructor=Layers": (
        "final.optim_wrapper.constructor: unknown optimizer constructor 'Layers': "
    ),
    "trial.optim_wrapper={'type':'OptimWrapper','_delete_':True}": (
        "trial.optim_wrapper: it has no optimizer: give dict(type='SGD', lr=…) or another"
    ),
    "trial.param_scheduler=[{'type':'StepL'}]": (
        "trial.param_scheduler.0.type: unknown parameter scheduler 'StepL': did you mean StepLR?"
    ),
    "final.param_scheduler=[{'type':'StepLR'}]": (
        "final.param_scheduler.0: mmengine can't build StepLR: "
    ),
    "trial.param_scheduler=[{'type':'LinearLR','begin':4,'end':4}]": (
        "trial.param_scheduler.0: mmengine can't build LinearLR: end should be larger than begin"
    ),
    "job.custom_hooks=[{'type':'EMAHok'}]": (
        "job.custom_hooks.0.type: unknown hook 'EMAHok': did you mean EMAHook?"
    ),
    "job.custom_hooks=[{'type':'EmptyCacheHook','after_iteration':True}]": (
        "job.custom_hooks.0: EmptyCacheHook does not take it: got an unexpected keyword argument "
        "'after_iteration'"
    ),
    "job.default_hooks={'logger':{'type':'LogerHook'}}": (
        "job.default_hooks.logger.type: unknown hook 'LogerHook': did you mean LoggerHook?"
    ),
    "job.visualizer={'type':'DetLocalVisualizer','vis_backends':[{'type':'Tensorbord'}]}": (
        "job.visualizer.vis_backends.0.type: unknown vis_backend 'Tensorbord': did you mean "
        "TensorboardVisBackend?"
    ),
    "job.val_evaluator={'type':'CocoMetrik'}": (
        "job.val_evaluator.0.type: unknown metric 'CocoMetrik': did you mean CocoMetric?"
    ),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_what_mmengine_cannot_build(refused, option):
    said = refused(
        "search", "quickstart", "--dry-run", "--work-dir", "run", "--cfg-options", option
    )
    assert said.startswith(OPTIONS[option])


def test_what_a_base_of_mmdet_adds_to_a_hook_is_no_option_of_it(command):
    """A config over ``mmdet::…`` has the registry's scope in each part; mmengine takes it out."""
    option = "job.default_hooks={'timer':{'type':'IterTimerHook','_scope_':'mmdet'}}"
    code, said = command("search", "quickstart", "--dry-run", "--cfg-options", option)
    assert code == 0, said


def test_a_final_training_that_cannot_be_built_is_told_by_train_too(refused):
    options = ["--cfg-options", "final.optim_wrapper.optimizer.type=Adamw"]
    said = refused("train", "quickstart", "--distiller", "none", *options)
    assert said.startswith("final.optim_wrapper.optimizer.type: unknown optimizer 'Adamw'")


def test_mixed_precision_without_a_gpu_is_planned_but_not_run(command, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    options = ["quickstart", "--cfg-options", "final.optim_wrapper.type=AmpOptimWrapper"]
    assert command("search", *options, "--dry-run")[0] == 0
    for use in (["search"], ["train", "--distiller", "none"]):
        code, said = command(*use, *options)
        assert code == 2
        assert said.splitlines()[-1].startswith(
            "detkds: final.optim_wrapper.type: it trains on GPUs only, and trainings here have none"
        )


CASCADE = "student.config=mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
HEADS = "student.cfg_options.model.roi_head.bbox_head"
#: A command's arguments, and the line that it is refused with. A * stands for what varies.
USES = {
    "show typo.json": (
        "typo.json: no such distiller file; give a path that is there, or the name of a shipped "
        "one: crosskd, "
    ),
    "search my/cfg.py": (
        "my/cfg.py: no such search config file; give a path that is there, or the name of a "
        "shipped one: custom, quickstart"
    ),
    f"search quickstart --cfg-options {CASCADE} {HEADS}.num_classes=4": (
        "--cfg-options: model.roi_head.bbox_head is a list of 3: say which of them, as in "
        "model.roi_head.bbox_head.0.num_classes, each by an option of its own"
    ),
    f"search quickstart --cfg-options {CASCADE} student.cfg_options.model.backbone.depth.x=4": (
        "--cfg-options: model.backbone.depth.x: can't be merged into the config: "
    ),
    "search model.py": (
        "model.py: it is a model's config, not a search config: give it as --student, with "
    ),
    "trials": "no database in ",
    "searches": "no database in ",
    "trials --work-dir nowhere": "--storage: can't use 'sqlite:///nowhere/detkds.db': there is no ",
}


@pytest.mark.parametrize("arguments", USES)
def test_a_wrong_use_is_told_in_one_line(refused, tmp_path, arguments):
    (tmp_path / "model.py").write_text("model = dict(type='RetinaNet')\n")
    dry = ["--dry-run"] if arguments.startswith("search ") else []
    assert refused(*arguments.split(), *dry).startswith(USES[arguments])


@pytest.mark.parametrize(
    ("student", "heads"),
    [
        ("retinanet/retinanet_r18_fpn_1x_coco.py", ["bbox_head"]),
        ("faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py", ["roi_head.bbox_head"]),
        (
            "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
            [f"roi_head.bbox_head.{number}" for number in range(3)],
        ),
    ],
)
def test_the_classes_are_advised_where_the_head_has_them_and_the_advice_works(
    refused, command, student, heads
):
    model = {"config": f"mmdet::{student}", "_delete_": True}
    use = ["search", "quickstart", "--dry-run", "--cfg-options", f"student={model}"]
    use += ["student.cfg_options.model.backbone.init_cfg=None", "search.start=[]"]
    use += ["search.knowledge=['global']", "final.compare=['none','found']"]
    advice = [f"student.cfg_options.model.{head}.num_classes=4" for head in heads]
    said = refused(*use)
    assert said.startswith("student: its head has 80 classes and the data have 4 (")
    assert said.endswith(f": set {' '.join(advice)}")
    code, said = command(*use, *advice)
    assert code == 0, said


def test_the_home_folder_is_expanded(command, custom, shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = [option.replace(f"={tmp_path}/", "=~/") for option in custom]
    assert at_home != custom
    code, said = command("search", *at_home, "--dry-run")
    assert code == 0, said
    assert str(shapes.train) in said
    code, said = command("search", "~/nowhere.py")
    assert code == 2
    assert said.startswith("detkds: ~/nowhere.py: no such search config file")


def test_trials_without_a_folder_are_those_of_all_searches(command, tmp_path):
    for name in ("cells", "cars"):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        with Store(f"sqlite:///{folder}/detkds.db") as store:
            stored_search.finished_search(store, name)
    code, said = command("trials", "--top", "1", "--sort", "score")
    assert code == 0, said
    code, said = command("trials")
    assert code == 0, said
    assert "│ cars " in said
    assert "│ cells " in said
    code, said = command("searches")
    assert code == 0, said
    for name in ("cars", "cells"):
        (row,) = (line for line in said.splitlines() if line.startswith(f"│ {name} "))
        assert f"sqlite:///runs/{name}/detkds.db" in row
        assert " 6 " in row
        assert " 31.0 " in row


def test_an_order_of_all_teachers_was_not_cut_short(command, tmp_path):
    costs = {"s": {"a": 3, "b": 2}, "a": {"b": 1}, "b": {"a": 1}}
    (tmp_path / "costs.json").write_text(json.dumps({"costs": costs, "scores": {"a": 4, "b": 5}}))
    use = ["teachers", "--costs", "costs.json", "--student", "s"]
    assert "bgs stops: no teacher is left" in command(*use)[1]
    assert "bgs stops: no teacher is left" in command(*use, "--max-teachers", "2")[1]
    cut = command(*use, "--max-teachers", "1")[1]
    assert "bgs stops: it has as many teachers as asked for" in cut
