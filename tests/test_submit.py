"""Stages as jobs of a real Ray on this machine: by `scadm submit` and by `dvc repro`, with and without a common folder."""
