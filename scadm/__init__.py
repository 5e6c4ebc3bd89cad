"""SCA-DM Pipeline: part-by-part face synthesis with semantic latent diffusion."""

import os

# Telemetry is off for every library this project can load, in every process that imports it.
# These are defaults: a variable that the user has set is left alone.
for _name, _value in {
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    # Not telemetry, but noise: one bar for each artifact that MLflow copies.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}.items():
    os.environ.setdefault(_name, _value)

__version__ = "0.1.0"
