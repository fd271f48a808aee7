"""Records passes as CUDA graphs and replays them. Each shape of a pass has one graph.

A forward and backward pass over a large Whisper starts thousands of operations. Starting them takes
longer than an H100 takes to compute them, unless a pass has very many windows. A recorded pass
starts as a whole.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lorajob.training.lora import FlatAdapter
from lorajob.training.loss import WhisperLoss
from lorajob.training.packed import PackedBatch

log = logging.getLogger(__name__)


class NotRecorded(Exception):
    """A pass cannot be recorded on this device. It can be run without recording."""


@dataclass
class _Recorded:
    """A graph, its inputs, and its outputs besides the gradient."""

    graph: torch.cuda.CUDAGraph
    inputs: PackedBatch
    share: Tensor  # 1 / number of the step's labels
    loss: Tensor


class RecordedPasses:
    """Adds the gradients of packed passes. Each shape is recorded at its first pass.

    All graphs share the same memory, because only one runs at a time.
    """

    def __init__(
        self,
        loss: WhisperLoss,
        backward: Callable[[Tensor], Any],
        adapter: FlatAdapter,
    ) -> None:
        """`backward` is called with the summed `loss` and makes the gradients of `adapter`."""
        self._loss = loss
        self._backward = backward
        self._adapter = adapter
        self._recorded: dict[Any, _Recorded] = {}
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batch: PackedBatch, tokens: int) -> Tensor:
        """Add the gradients of a batch. Returns its summed loss divided by the step's `tokens`.

        The next pass overwrites the result. Raises torch.OutOfMemoryError and NotRecorded.
        """
        key = batch.shape, batch.heard is None
        recorded = self._recorded.get(key)
        if recorded is None:
            try:
                recorded = self._recorded[key] = self._record(batch)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                raise NotRecorded(str(error)) from error
        inputs = recorded.inputs.tensors()
        for name, tensor in batch.tensors().items():
            inputs[name].copy_(tensor, non_blocking=True)
        recorded.share.fill_(1.0 / tokens)
        recorded.graph.replay()
        return recorded.loss

    def forget(self) -> None:
        """Free the memory. Shapes will be recorded again."""
        self._recorded.clear()
        self._pool = None

    def _record(self, batch: PackedBatch) -> _Recorded:
        device = self._adapter.weights.device
        inputs = batch.to(device)
        share = torch.zeros((), device=device)
        # Always the same stream: PyTorch returns memory to the stream that it was allocated on.
        stream = self._stream = self._stream or torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        # The libraries must make their plans outside of the graph.
        with torch.cuda.stream(stream):
            if self._pool is None:
                before = self._adapter.gradient.clone()
                self._take(inputs, share)
                self._adapter.gradient.copy_(before)
            # Once a graph exists, a whole pass outside of it would take as much memory again.
            elif inputs.audio is not None:
                self._loss.front(inputs)
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads pin memory meanwhile. "thread_local" keeps this out of the recording.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
            ):
                loss = self._take(inputs, share)
        except RuntimeError:
            # After a failed recording PyTorch leaves its stream as the current one.
            torch.cuda.set_stream(current)
            raise
        self._pool = self._pool or graph.pool()
        log.info("recorded a pass of %s", batch.shape)
        return _Recorded(graph, inputs, share, loss)

    def _take(self, inputs: PackedBatch, share: Tensor) -> Tensor:
        loss = self._loss(inputs) * share
        self._backward(loss)
        self._adapter.collect()
        result: Tensor = loss.detach()
        return result
