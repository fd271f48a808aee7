"""Passes recorded once as CUDA graphs and played again, a graph for each shape of a pass.

A pass over a large Whisper starts some 9,000 operations, there and back. Starting them takes a
program longer than an H100 takes to compute them, unless a pass has very many windows. A recorded
pass is started at once, whatever it holds.
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
    """A pass cannot be recorded here; it can be taken as it is."""


@dataclass
class _Recorded:
    """A graph with what it reads and what it writes besides the gradient."""

    graph: torch.cuda.CUDAGraph
    inputs: PackedBatch
    share: Tensor  # one over the step's labels
    loss: Tensor


class RecordedPasses:
    """Adds the gradients of packed passes, each shape recorded at its first pass.

    All graphs compute in the same memory, since only one plays at a time.
    """

    def __init__(
        self,
        loss: WhisperLoss,
        backward: Callable[[Tensor], Any],
        adapter: FlatAdapter,
    ) -> None:
        """`backward` of the summed `loss` gives the gradients of `adapter`."""
        self._loss = loss
        self._backward = backward
        self._adapter = adapter
        self._recorded: dict[Any, _Recorded] = {}
        self._pool: Any = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batch: PackedBatch, tokens: int) -> Tensor:
        """Add the batch's gradients; returns its share of the loss a token, of `tokens` in all.

        The result is overwritten by the next pass. Raises torch.OutOfMemoryError and NotRecorded.
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
        """Give the memory back; shapes are recorded anew."""
        self._recorded.clear()
        self._pool = None

    def _record(self, batch: PackedBatch) -> _Recorded:
        device = self._adapter.weights.device
        inputs = batch.to(device)
        share = torch.zeros((), device=device)
        # always the same: PyTorch gives memory back to the stream that it was taken on
        stream = self._stream = self._stream or torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):  # the libraries make their plans outside of the graph
            if self._pool is None:
                before = self._adapter.gradient.clone()
                self._take(inputs, share)
                self._adapter.gradient.copy_(before)
            elif inputs.audio is not None:  # later a whole pass would take as much memory again
                self._loss.front(inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # other threads pin memory meanwhile, which is no part of the pass
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            loss = self._take(inputs, share)
        self._pool = self._pool or graph.pool()
        log.info("recorded a pass of %s", batch.shape)
        return _Recorded(graph, inputs, share, loss)

    def _take(self, inputs: PackedBatch, share: Tensor) -> Tensor:
        loss = self._loss(inputs) * share
        self._backward(loss)
        self._adapter.collect()
        result: Tensor = loss.detach()
        return result
