"""Train the small VQ autoencoder: L1 + SSIM + commitment, and a codebook of moving averages."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.functional.image import structural_similarity_index_measure as ssim

from scadm.config import AutoencoderStageConfig
from scadm.models.autoencoder import VQAutoencoder
from scadm.pixels import ImageSource, to_signed
from scadm.precision import mixed_precision
from scadm.training.rate import rate

WARMUP = 20  # steps
CODE_DECAY = 0.99
DEAD_BELOW = 0.03  # smoothed uses per step under which a code is restarted


class Codebook:
    """Moves the codes to the moving average of the encoder outputs that choose them (van den Oord et al., App. A.1)."""

    def __init__(self, codes: Tensor, seed: int) -> None:
        self.codes = codes
        self.uses = torch.ones(len(codes))
        self.sums = codes.clone()
        self.random = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def start(self, cells: Tensor) -> None:
        """Begin at encoder outputs: codes drawn at random would be far from all of them."""
        chosen = torch.randint(len(cells), (len(self.codes),), generator=self.random)
        self.codes.copy_(cells[chosen])
        self.sums.copy_(self.codes)

    @torch.no_grad()
    def update(self, cells: Tensor, ids: Tensor) -> None:
        """cells (N, C), ids (N,) their nearest codes."""
        uses = torch.bincount(ids, minlength=len(self.codes)).float()
        sums = torch.zeros_like(self.sums).index_add_(0, ids, cells)
        self.uses.lerp_(uses, 1 - CODE_DECAY)
        self.sums.lerp_(sums, 1 - CODE_DECAY)
        self.codes.copy_(self.sums / self.uses.clamp(min=1e-5)[:, None])
        dead = (self.uses < DEAD_BELOW).nonzero()[:, 0]
        if len(dead):
            self.codes[dead] = cells[torch.randint(len(cells), (len(dead),), generator=self.random)]
            self.uses[dead] = 1.0
            self.sums[dead] = self.codes[dead]


def fit_autoencoder(
    source: ImageSource,
    config: AutoencoderStageConfig,
    seed: int,
    on_step: Callable[[dict[str, float]], None] = lambda _: None,
) -> tuple[VQAutoencoder, list[dict[str, float]]]:
    """Train on all images of `source`; returns the autoencoder and rows of {step, loss, ssim}.

    The first steps leave quantisation out (`continuous_share`): codes that begin at the outputs of an encoder that has
    learnt something are of use at once.
    """
    torch.manual_seed(seed)
    model = VQAutoencoder(config.network)
    codebook = Codebook(model.codebook, seed)
    fit = config.training
    optimiser = torch.optim.AdamW(
        model.parameters(), fit.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
    )
    schedule = LambdaLR(optimiser, lambda step: rate(step, fit.steps, WARMUP, "cosine"))
    random = np.random.Generator(np.random.PCG64(seed))
    noise = torch.Generator().manual_seed(seed)
    autocast = mixed_precision(fit.precision, torch.device("cpu"))
    first_quantised = int(fit.continuous_share * fit.steps)
    history = []
    for step in range(fit.steps):
        images = source.image_batch(random.integers(len(source), size=fit.batch_size).tolist())
        x = to_signed(images)
        with autocast():
            latent = model.encode(x).float()
        cells = rearrange(latent.detach(), "b c h w -> (b h w) c")
        if step == first_quantised:
            codebook.start(cells)
        # Rising over the first half: with all of it at once, the encoder gives up a colour to say the others twice.
        most = fit.latent_noise * min(1.0, 2 * step / fit.steps)
        noisy = latent + cells.std(dim=0)[:, None, None] * _noise(latent.shape, most, noise)
        code, ids = model.quantise(noisy) if step >= first_quantised else (noisy, None)
        with autocast():
            reconstruction = model.decoder(code).float()
        similarity = ssim(_unit(reconstruction), _unit(x), data_range=1.0)
        assert isinstance(similarity, Tensor)
        loss = F.l1_loss(reconstruction, x) + fit.ssim_weight * (1 - similarity)
        if ids is not None:
            # latent + (code - latent).detach() has the code's value, so this pulls the encoder towards its code.
            loss = loss + fit.commitment_weight * F.mse_loss(latent, code.detach())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if ids is not None:
            codebook.update(cells, ids.flatten())
        if not math.isfinite(loss.item()):
            raise ValueError(
                f"the autoencoder's loss is {loss.item()} at step {step}: lower autoencoder.training.learning_rate "
                f"(it is {fit.learning_rate})"
            )
        row = {"step": step + 1, "loss": loss.item(), "ssim": similarity.item()}
        on_step(row)
        if (step + 1) % 10 == 0 or step + 1 == fit.steps:
            history.append(row)
    return model.eval(), history


@torch.inference_mode()
def reconstruction_ssim(model: VQAutoencoder, source: ImageSource, count: int) -> float:
    """Mean SSIM of the round trip over the first `count` images of a source that was not trained on."""
    scores = []
    for start in range(0, min(count, len(source)), 16):
        images = source.image_batch(list(range(start, min(start + 16, count, len(source)))))
        x = to_signed(images)
        rows = ssim(_unit(model.decode(model.encode(x)).clamp(-1, 1)), _unit(x), data_range=1.0, reduction="none")
        assert isinstance(rows, Tensor)
        scores += rows.tolist()
    return float(np.mean(scores))


def _unit(signed: Tensor) -> Tensor:
    """[-1, 1] as [0, 1], where the evaluation takes its SSIM too: the two scales give different numbers."""
    return (signed + 1) / 2


def _noise(shape: torch.Size, most: float, random: torch.Generator) -> Tensor:
    """Gaussian noise of `shape` (B, C, h, w), whose deviation is drawn for each image, uniform in 0 .. `most`."""
    deviation = most * torch.rand(shape[0], 1, 1, 1, generator=random)
    return deviation * torch.randn(shape, generator=random)
