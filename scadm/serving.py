"""The registered model: MLflow runs this file as models-from-code, so that nothing is pickled.

Input, a table: `mask` (a PNG label map with class ids 0 to 18, base64) and, each optional, `reference` (a PNG or JPEG
face, base64), `reference_mask` (its label map; `mask` where it is left out) and `seed`. Output: `image` (PNG, base64).
Without a reference, noise chooses the style.
"""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from scadm import faces
from scadm.config import SamplingConfig
from scadm.synthesis import Synthesiser, load_synthesiser


def _open(text: str, what: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    except (ValueError, UnidentifiedImageError):
        raise ValueError(f"{what} is {text[:40]!r}..., expected an image file in base64") from None


class FaceSynthesis(PythonModel):
    def load_context(self, context: Any) -> None:
        self.synthesiser: Synthesiser = load_synthesiser(
            context.artifacts["weights"],
            Path(context.artifacts["autoencoder"]),
            SamplingConfig.model_validate(
                {name.removeprefix("sampling."): value for name, value in context.model_config.items()}
            ),
            torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        )

    def _labels(self, text: str, what: str) -> NDArray[np.uint8]:
        image = _open(text, what)
        if image.mode not in ("L", "P"):
            raise ValueError(f"{what} has the mode {image.mode}, expected one channel of class ids (L or P)")
        side = self.synthesiser.resolution
        labels = np.asarray(image.resize((side, side), Image.Resampling.NEAREST))
        faces.require_ids(labels, what)
        return labels

    def _row(self, row: dict[str, Any], index: int) -> str:
        labels = self._labels(row["mask"], f"mask of row {index}")[None]
        seed = row.get("seed")
        seeds = [0 if seed is None or pd.isna(seed) else int(seed)]
        reference = row.get("reference")
        if reference is None or pd.isna(reference):
            image = self.synthesiser.random(labels, seeds)[0]
        else:
            side = self.synthesiser.resolution
            picture = _open(reference, f"reference of row {index}").convert("RGB")
            pixels = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))[None]
            mask = row.get("reference_mask")
            if mask is None or pd.isna(mask):
                reference_labels = labels
            else:
                reference_labels = self._labels(mask, f"reference_mask of row {index}")[None]
            image = self.synthesiser.dress(labels, pixels, reference_labels, seeds)[0]
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows = model_input.to_dict("records")
        return pd.DataFrame({"image": [self._row(row, index) for index, row in enumerate(rows)]})


set_model(FaceSynthesis())
