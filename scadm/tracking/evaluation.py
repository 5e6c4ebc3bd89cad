"""An evaluation's metrics and files, in the run of its training or in one below it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from mlflow.utils.time import get_current_time_millis

from scadm import lineage
from scadm.config import TrackingConfig
from scadm.tracking.run_logger import METRICS_PER_CALL
from scadm.tracking.runs import RUN_KEY, open_run, shown_params
from scadm.tracking.store import Tracked, asking, warn

Numbers = Mapping[str, Mapping[str, Mapping[str, tuple[float, float | None, float | None]]]]
"""{task: {row: {metric: (value, low, high)}}}, the ends of an interval where there is one."""

EVALUATION = "scadm.evaluation"
"""Tag of a run that holds an evaluation's metrics: the run key of that evaluation."""


def evaluation_run(config: TrackingConfig, home: Path, trained: Tracked, key: str, params: dict[str, Any]) -> Tracked:
    """The run that holds the evaluation `key`: that of the training for its first one with the same parameters, for
    another a run below it.

    So no evaluation overwrites another one's metrics, and each lies beside the parameters that it was made with. Where
    the store fails, that is said, and the training's run stands in: what was measured is in the reports.
    """
    try:
        with asking():
            return _evaluation_run(config, home, trained, key, params)
    except Exception as error:  # as in RunLogger
        warn(trained, error, "Going on without it.")
        return trained


def _evaluation_run(config: TrackingConfig, home: Path, trained: Tracked, key: str, params: dict[str, Any]) -> Tracked:
    client = MlflowClient(trained.uri)
    run = client.get_run(trained.run_id)
    same = shown_params(params).items() <= run.data.params.items()  # an older training may have more of them
    if run.data.tags.get(EVALUATION, key if same else None) == key:
        client.set_tag(trained.run_id, EVALUATION, key)
        return trained
    # What leads back to code and data is the training's; the experiment is the one that evaluates.
    own = {RUN_KEY, lineage.EXPERIMENT, lineage.BASELINE}
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("scadm.") and name not in own}
    below = open_run(
        config,
        home,
        key,
        name=f"{run.info.run_name}-evaluation-{key[:6]}",
        params=params,
        tags=tags | lineage.experiment() | {EVALUATION: key, MLFLOW_PARENT_RUN_ID: trained.run_id},
        dataset=None,
    )
    client.set_terminated(below.run_id, "FINISHED")
    return below


def log_evaluation(tracked: Tracked, measures: Numbers, reports: Path) -> None:
    """The evaluation's numbers as metrics `task/row/metric`, and its figures, into an MLflow run.

    The ends of an interval are `task/row/metric_low` and `_high`.

    A store that fails costs a warning: what was measured is in the reports.
    """
    now = get_current_time_millis()
    flat = [
        Metric(f"{task}/{row}/{name}{end}", value, now, 0)
        for task, rows in measures.items()
        for row, part in rows.items()
        for name, measure in part.items()
        for end, value in zip(("", "_low", "_high"), measure, strict=True)
        if value is not None
    ]
    run_id = tracked.run_id

    def send(client: MlflowClient) -> None:
        with asking():
            for i in range(0, len(flat), METRICS_PER_CALL):
                client.log_batch(run_id, metrics=flat[i : i + METRICS_PER_CALL])

    # In no folder: what lies in one, MLflow does not show when runs are compared.
    _try(tracked, reports, send, lambda client: client.log_artifacts(run_id, str(reports / "figures")))


def log_report(tracked: Tracked, page: Path) -> None:
    """The report into the run of its evaluation; a store that fails costs a warning."""
    _try(tracked, page.parent, lambda client: client.log_artifact(tracked.run_id, str(page), "report"))


def _try(tracked: Tracked, reports: Path, *calls: Callable[[MlflowClient], None]) -> None:
    try:
        client = MlflowClient(tracked.uri)
        for call in calls:
            call(client)
    except Exception as error:  # as in RunLogger
        warn(tracked, error, f"Going on without it: what was measured is in {reports}.")
