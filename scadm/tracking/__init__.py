"""MLflow: one run for each run key, with its metrics, pictures, weights and lineage.

The launcher makes the run (`open_run`); rank 0 reopens it by id (`RunLogger`). A failure of tracking never stops a
training: it is counted and said, and what could not be sent is sent later, from the run's own journal if need be.
"""

from scadm.tracking.evaluation import EVALUATION, evaluation_run, log_evaluation, log_report
from scadm.tracking.machine_metrics import machine_metrics
from scadm.tracking.run_logger import RunLogger, replay
from scadm.tracking.runs import RUN_KEY, ending, find_run, open_run
from scadm.tracking.store import Tracked, store_file, survey, tracking_uri
from scadm.tracking.weights import fetch_artifacts, find_weights, keep_weights

__all__ = [
    "EVALUATION",
    "RUN_KEY",
    "RunLogger",
    "Tracked",
    "ending",
    "evaluation_run",
    "fetch_artifacts",
    "find_run",
    "find_weights",
    "keep_weights",
    "log_evaluation",
    "log_report",
    "machine_metrics",
    "open_run",
    "replay",
    "store_file",
    "survey",
    "tracking_uri",
]
