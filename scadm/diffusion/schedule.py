"""The forward process q(x_t | x_0), with betas that are linear in their square root."""

import torch
from einops import rearrange
from torch import Tensor, nn

from scadm.config import DiffusionConfig


class Schedule(nn.Module):
    """alpha_bar_t for t in 0 .. T - 1, float32."""

    alpha_bar: Tensor

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.prediction = config.prediction
        self.min_snr_gamma = config.min_snr_gamma
        beta = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.timesteps, dtype=torch.float64) ** 2
        self.register_buffer("alpha_bar", torch.cumprod(1 - beta, dim=0).float(), persistent=False)

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise, for t (B,)."""
        alpha_bar = rearrange(self.alpha_bar[t], "b -> b 1 1 1")
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * noise

    def target(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network predicts: the noise, or v = sqrt(alpha_bar_t) noise - sqrt(1 - alpha_bar_t) x_0.

        v: Salimans and Ho, Progressive Distillation, Appendix D.
        """
        if self.prediction == "epsilon":
            return noise
        alpha_bar = rearrange(self.alpha_bar[t], "b -> b 1 1 1")
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x_0

    def loss_weight(self, t: Tensor) -> Tensor:
        """Weight (B,) of the squared error of what the network predicts at t (B,); ones without min_snr_gamma.

        With it, the weighted error is min(SNR, gamma) ||x_0 error||^2 for either prediction, because an error of x_0 is
        SNR times as much, squared, in the noise, and SNR + 1 times in v.
        """
        alpha_bar = self.alpha_bar[t]
        if self.min_snr_gamma is None:
            return torch.ones_like(alpha_bar)
        snr = alpha_bar / (1 - alpha_bar)
        # Hang et al. 2023, Efficient Diffusion Training via Min-SNR Weighting Strategy.
        return snr.clamp(max=self.min_snr_gamma) / (snr if self.prediction == "epsilon" else snr + 1)
