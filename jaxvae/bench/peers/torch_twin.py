"""The training step in PyTorch, eager or compiled, with or without a CUDA graph, and with fused Adam.

It imports only PyTorch, and only in `build`.
"""

import argparse
import importlib
import math
from typing import Any


def build(options: argparse.Namespace) -> tuple[Any, ...]:
    """Build the step, as the fields of `jaxvae.bench.peers.serve.Step` in order.

    Raises:
        RuntimeError: the platform is a TPU, a GPU that PyTorch does not find, or no GPU for a CUDA graph.
    """
    torch: Any = importlib.import_module("torch")
    if options.platform == "tpu":
        raise RuntimeError("PyTorch runs on no TPU here")
    device = "cuda" if options.platform == "gpu" else "cpu"
    if options.graph and device != "cuda":
        raise RuntimeError("a CUDA graph needs a GPU")
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
    if options.compile:
        loss = torch.compile(eager)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=options.graph)
    data = (torch.rand(options.rows, 784, device=device) < 0.3).float()
    starts, taken = options.rows - batch_size + 1, 0

    def step(x: Any) -> Any:
        value = loss(x)
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # a graph allocates its own gradients
        return value

    take = Captured(torch, step, data[:batch_size]) if options.graph else step

    def run(steps: int) -> int:
        nonlocal taken
        value = None
        for _ in range(steps):
            start = taken * batch_size % starts
            taken += 1
            value = take(data[start : start + batch_size])
        if value is not None:
            value.item()
        if device == "cuda":
            torch.cuda.synchronize()
        return steps

    def at_first() -> float:
        with torch.no_grad():
            return eager(data[:batch_size]).item()

    count = sum(parameter.numel() for parameter in parameters)
    return torch.__version__, count, at_first, run


class Captured:
    """A step as one CUDA graph: a batch is copied to the graph's input buffer, and the graph is replayed.

    Neither waits for the device. The graph is captured in the first call, after some steps on a separate
    stream, as PyTorch requires: these compile, and create the state of the optimizer.

    Args:
        torch: the module.
        step: a function from a batch to its loss.
        batch: an example of a batch.
    """

    def __init__(self, torch: Any, step: Any, batch: Any):
        self._torch, self._step, self._x = torch, step, batch.clone()
        self._graph, self._loss = torch.cuda.CUDAGraph(), None

    def __call__(self, batch: Any) -> Any:
        """Start the step; the returned loss is overwritten by the next call."""
        self._x.copy_(batch)
        if self._loss is None:
            self._capture()
        self._graph.replay()
        return self._loss

    def _capture(self) -> None:
        cuda = self._torch.cuda
        aside = cuda.Stream()
        aside.wait_stream(cuda.current_stream())
        with cuda.stream(aside):
            for _ in range(3):
                self._step(self._x)
        cuda.current_stream().wait_stream(aside)
        with cuda.graph(self._graph):
            self._loss = self._step(self._x)


def layers(torch: Any, inputs: int, width: int, outputs: int) -> Any:
    """Return a network with two hidden layers with tanh, weights N(0, 1 / inputs of the layer) and zero biases."""
    nn, sizes = torch.nn, (inputs, width, width, outputs)
    linear = [nn.Linear(sizes[i], sizes[i + 1]) for i in range(3)]
    for layer in linear:
        nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear[0], nn.Tanh(), linear[1], nn.Tanh(), linear[2])


def bound(torch: Any, encoder: Any, decoder: Any, half: Any, num_samples: int) -> Any:
    """Return the loss of a batch: minus the ELBO with closed-form KL for one sample, else minus the IWAE bound.

    The networks run in the precision of `half`, a `torch.autocast`; all else is float32.
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
