"""A run's journal as tables for plots."""

import pandas as pd

from scadm.files.store import Store
from scadm.stage import Stage
from scadm.training import journal


def read(run: Store) -> pd.DataFrame:
    """One row a step that logged something; a metric that a step did not log is missing there."""
    table = pd.DataFrame(journal.read(run)).drop(columns="time", errors="ignore")
    return table.groupby("step", as_index=False).first()


def write(run: Store, stage: Stage) -> None:
    """reports/training.csv and reports/validation.csv, for DVC's plots."""
    table = read(run)
    for name, prefix in (("training", "train/"), ("validation", "validation/")):
        columns = [column for column in table.columns if column.startswith(prefix)]
        part = table[["step", *columns]].dropna() if columns else pd.DataFrame({"step": [], f"{prefix}loss": []})
        part.columns = [column.removeprefix(prefix) for column in part.columns]
        stage.write(f"reports/{name}.csv", part.to_csv(index=False))
