"""The step in PyTorch, eager or compiled: layers, bound, fused Adam. Imports PyTorch alone, when it is built."""

import argparse
import importlib
import math
from typing import Any


def build(options: argparse.Namespace) -> tuple[Any, ...]:
    """The step, in the order that `jaxvae.bench.peers.serve.Step` has.

    Raises:
        RuntimeError: a TPU is asked for, or a GPU and PyTorch finds none.
    """
    torch: Any = importlib.import_module("torch")
    if options.platform == "tpu":
        raise RuntimeError("PyTorch runs on no TPU here")
    device = "cuda" if options.platform == "gpu" else "cpu"
    if device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("PyTorch finds no GPU")
        # As JAX multiplies by default: TensorFloat-32.
        precision = "highest" if options.precision == "highest" else "high"
        torch.set_float32_matmul_precision(precision)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    width, latent_dim, batch_size = options.width, options.latent_dim, options.batch_size
    encoder = layers(torch, 784, width, 2 * latent_dim).to(device)
    decoder = layers(torch, latent_dim, width, 784).to(device)
    half = torch.autocast(device, torch.bfloat16, enabled=options.precision == "bfloat16")
    loss = eager = bound(torch, encoder, decoder, half, options.num_samples)
    if options.compile != "no":
        loss = torch.compile(eager, mode=options.compile)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    data = (torch.rand(options.rows, 784, device=device) < 0.3).float()
    starts, taken = options.rows - batch_size + 1, 0

    def run(steps: int) -> None:
        nonlocal taken
        value = None
        for _ in range(steps):
            start = taken * batch_size % starts
            taken += 1
            optimizer.zero_grad(set_to_none=True)
            value = loss(data[start : start + batch_size])
            value.backward()
            optimizer.step()
        if value is not None:
            value.item()
        if device == "cuda":
            torch.cuda.synchronize()

    def at_first() -> float:
        with torch.no_grad():
            return eager(data[:batch_size]).item()

    count = sum(parameter.numel() for parameter in parameters)
    return torch.__version__, count, at_first, run


def layers(torch: Any, inputs: int, width: int, outputs: int) -> Any:
    """Two hidden layers with tanh; weights N(0, 1 / inputs of a layer), zero biases."""
    nn, sizes = torch.nn, (inputs, width, width, outputs)
    linear = [nn.Linear(sizes[i], sizes[i + 1]) for i in range(3)]
    for layer in linear:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])


def bound(torch: Any, encoder: Any, decoder: Any, half: Any, num_samples: int) -> Any:
    """The loss of a batch: minus the ELBO with its closed-form KL for one sample, else minus the IWAE bound.

    Networks run in the precision of `half`, a `torch.autocast`; all else is float32.
    """
    functional = torch.nn.functional

    def distortion(z: Any, x: Any) -> Any:
        with half:
            logits = decoder(z)
        # log(1 + e^l) - x l, which is the cross entropy of a bit.
        return functional.binary_cross_entropy_with_logits(
            logits.float(), x.expand(logits.shape), reduction="none"
        ).sum(-1)

    def loss(x: Any) -> Any:
        with half:
            output = encoder(x)
        mean, raw = output.float().chunk(2, dim=-1)
        variance = functional.softplus(raw) + 1e-8
        if num_samples == 1:
            z = mean + variance.sqrt() * torch.randn_like(mean)
            rate = 0.5 * (mean.square() + variance - 1 - variance.log()).sum(-1)
            return (distortion(z, x) + rate).mean()
        noise = torch.randn(num_samples, *mean.shape, device=x.device)
        z = mean + variance.sqrt() * noise
        # log p(z) - log q(z|x); the constants of both are the same.
        log_ratio = 0.5 * (noise.square() + variance.log() - z.square()).sum(-1)
        log_weight = log_ratio - distortion(z, x)
        return (math.log(num_samples) - log_weight.logsumexp(0)).mean()

    return loss
