"""What would make the host wait for a device, found on the CPU: a captured step may do nothing of it."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoHostSync(TorchDispatchMode):
    """Fails on operations that make the host wait for a device.

    Those of `RANGED` ask it for the range of their indices where torch is to be deterministic, as on CUDA.
    """

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "masked_select", "unique")
    RANGED = ("index_put", "index_copy", "index_add", "scatter_add", "scatter_reduce", "index_reduce")

    def __enter__(self):
        self._before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        return super().__enter__()

    def __exit__(self, *error):
        torch.use_deterministic_algorithms(self._before)
        super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name.strip("_") in {forbidden.strip("_") for forbidden in self.FORBIDDEN}:
            raise AssertionError(f"host synchronisation inside a step: {name}")
        ranged = name.strip("_") in self.RANGED or (name.strip("_") == "scatter" and isinstance(args[3], torch.Tensor))
        if ranged and torch.are_deterministic_algorithms_enabled():
            raise AssertionError(f"host synchronisation inside a step that is to be deterministic: {name}")
        return func(*args, **(kwargs or {}))
