"""Way of weights from their device to the writer, one step at a time.

On the CPU the writer copies them at once. On CUDA they are first copied into one buffer on the device, in the stream of
the loop, and from there into pinned memory in a stream of their own: the loop's next update waits for neither the host
nor the bus. They are handed over when the next step is due, or when asked for.
"""

import contextlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from interp.recording.optimizers import as_array

__all__ = ["Staging"]


class Staging:
    """Buffers on the device and on the host for the weights of one step.

    Arguments:
        device: where the weights live.
        buffered: whether they are copied before they are handed over; None: on CUDA alone.

    Example:
        >>> staging, weight = Staging(torch.device("cpu"), buffered=True), torch.zeros(2)
        >>> staging.start(7, {"weight": weight})
        >>> _ = weight.fill_(1)  # the next update
        >>> staging.finish()
        (7, {'weight': array([0., 0.], dtype=float32)})
        >>> staging.finish() is None
        True
    """

    def __init__(self, device: torch.device, buffered: bool | None = None) -> None:
        self._is_cuda = device.type == "cuda"
        self._buffered = self._is_cuda if buffered is None else buffered
        self._stream = torch.cuda.Stream(device) if self._is_cuda else None
        self._done = torch.cuda.Event() if self._is_cuda else None
        self._on_device: dict[str, Tensor] = {}
        self._on_host: dict[str, Tensor] = {}
        self._waiting: tuple[int, dict[str, np.ndarray]] | None = None

    def start(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights of `step`; those of an earlier step must have been handed over by `finish`."""
        if not self._buffered:
            self._waiting = step, {name: as_array(x) for name, x in tensors.items()}
            return
        if self._on_device.keys() != tensors.keys():
            self._on_device = {name: torch.empty_like(x, requires_grad=False) for name, x in tensors.items()}
            self._on_host = {
                name: torch.empty_like(x, device="cpu", pin_memory=self._is_cuda) for name, x in self._on_device.items()
            }
        if self._done is not None:
            torch.cuda.current_stream().wait_event(self._done)  # the buffer may still be on its way to the host
        for name, x in tensors.items():
            self._on_device[name].copy_(x.detach())
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())
        with contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            for name, x in self._on_device.items():
                self._on_host[name].copy_(x, non_blocking=True)
            if self._done is not None:
                self._done.record()
        self._waiting = step, {}

    def finish(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """Step and arrays that were taken last; None where they were handed over already.

        Unbuffered arrays are views that the next update changes; others the next `start`.
        """
        if self._waiting is None:
            return None
        (step, arrays), self._waiting = self._waiting, None
        if self._buffered:
            if self._done is not None:
                self._done.synchronize()
            arrays = {name: as_array(x) for name, x in self._on_host.items()}
        return step, arrays
