"""The environment of a run: device, threads, exact arithmetic, memory, signals, provenance.

Contexts restore the settings that they change (but for the allocator's thresholds, which glibc cannot report).
"""

import contextlib
import ctypes
import os
import platform
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from interp.errors import DeviceMemoryError, InvalidArgumentError

__all__ = [
    "choose_device",
    "interruptible",
    "keep_large_buffers",
    "provenance",
    "release_buffers",
    "run_environment",
]

_HOME = Path(__file__).resolve().parents[2]
_LIBRARIES = (
    r"(oneAPI Math Kernel Library Version [\w.-]+)",
    r"(MKL-DNN v[\w.]+)",
    r"(BLAS_INFO=\w+)",
)
"""Patterns of the libraries that torch names as those it was built with."""
_VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUBLAS_WORKSPACE_CONFIG", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip
"""Environment variables that choose kernels; the number of threads is a fact of its own."""


def choose_device(name: str | None) -> torch.device:
    """Device called `name`; None takes CUDA where there is one.

    Raises:
        InvalidArgumentError: torch does not know the name, or this machine has no such device.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InvalidArgumentError(f"`device` must be cpu, cuda or cuda:N; got {name!r}.") from error
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgumentError(f"`device` must be cpu, cuda or cuda:N; got {name!r}.")
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InvalidArgumentError(
            f"`device` {name} is not available: torch sees {torch.cuda.device_count()} CUDA devices."
        )
    return device


@contextlib.contextmanager
def run_environment(device: torch.device, threads: int | None) -> Iterator[None]:
    """Context with exact arithmetic on `device`, `threads` CPU threads (None: torch's setting), and kept buffers.

    Raises:
        InvalidArgumentError: `threads` is less than 1.
        DeviceMemoryError: the work in the context does not fit into the memory of the device.
    """
    if threads is not None and threads < 1:
        raise InvalidArgumentError(f"`threads` must be a whole number >= 1 (None: torch's setting); got {threads}.")
    threads_before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    tf32 = torch.backends.cuda.matmul.allow_tf32
    buffers: Any = torch.utils.deterministic
    filled = buffers.fill_uninitialized_memory
    keep_large_buffers()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        if device.type == "cuda":
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read at the first call of cuBLAS
            torch.use_deterministic_algorithms(True)
            torch.backends.cuda.matmul.allow_tf32 = False
            buffers.fill_uninitialized_memory = False  # costs a kernel for each
        # a graph is captured on the current device, which need not be the first
        with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
            yield
    except torch.OutOfMemoryError as error:
        raise DeviceMemoryError(
            f"The memory of {_device_name(device)} does not hold this: train fewer runs together (`together`, or a "
            "shorter list for `train_many`), in minibatches (`optimizer.batch_size`), or a smaller model."
        ) from error
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cuda.matmul.allow_tf32 = tf32
        buffers.fill_uninitialized_memory = filled


@contextlib.contextmanager
def interruptible() -> Iterator[list[int]]:
    """Context that collects Ctrl-C and SIGTERM in a list, to be asked; a second Ctrl-C interrupts at once.

    Outside the main thread, where Python takes no signals, nothing is changed; nor is a signal that is ignored.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    both = (signal.SIGINT, signal.SIGTERM)
    heard = [signum for signum in both if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, note) for signum in heard}
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def provenance(device: torch.device) -> dict[str, Any]:
    """Facts about the machine and the versions, kept beside a run; they do not take part in its identity."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "interp": version("grokking-interp"),
        "revision": _revision(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.platform(),
        "device": device.type,
        "device_name": _device_name(device),
        "threads": torch.get_num_threads(),
        "update": "captured as a CUDA graph" if device.type == "cuda" else "eager",
        "arithmetic": _arithmetic(device),
    }


def keep_large_buffers(largest: int = 2**30) -> None:
    """Ask glibc to keep freed buffers: by default it returns them to the kernel and faults them in at every step.

    Buffers of more than `largest` bytes are returned all the same. A training step asks for the same buffers again and
    again; where sizes vary, as in measuring, kept buffers fall into pieces and memory grows.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_threshold = -1, -3
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, largest)


def release_buffers() -> None:
    """Return freed memory to the kernel, also from the middle of the heap."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _arithmetic(device: torch.device) -> dict[str, str]:
    """Facts that choose the order in which numbers are added, beyond processor, threads and torch's version."""
    built = torch.__config__.show()
    found = [match[1].strip() for pattern in _LIBRARIES if (match := re.search(pattern, built))]
    if device.type == "cuda":
        found += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "libraries": ", ".join(found) or "unknown",
        "variables": " ".join(f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ) or "none",
    }


def _revision(home: Path = _HOME) -> str | None:
    """Git revision of the checkout of this package; None where it is installed otherwise.

    Nothing in the checkout is written, nor locked: `git describe --dirty` would take the lock of the index.
    """
    if not (home / ".git").exists():
        return None
    try:
        revision = _git(home, "describe", "--always", "--abbrev=12")
        changed = _git(home, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{revision}-dirty" if revision and changed else revision or None


def _git(home: Path, *words: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(home), *words]
    done = subprocess.run(command, capture_output=True, check=True, timeout=10)
    return done.stdout.decode("utf-8", "replace").strip()
