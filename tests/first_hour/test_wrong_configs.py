"""Wrong uses of configs and options: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import pytest

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
@pytest.mark.parametrize("use", ["search"])
def test_what_mmengine_cannot_build(refused, option, use):
    said = refused(use, "quickstart", "--work-dir", "run", "--cfg-options", option)
    assert said.startswith(OPTIONS[option])


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
        assert said.startswith(
            "detkds: final.optim_wrapper.type: it trains on GPUs only, and trainings here have none"
        )
