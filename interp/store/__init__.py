"""Bytes to arrays and back: the folder of one run, committed so that a kill loses little and a flipped bit is noticed.

    run.json                                   what the caller says about the run, and once it is complete what it
                                               holds, sealed with a SHA-256
    trajectory/00000000-00000063.safetensors   one *segment*: every array stacked [K, ...] over K steps
    state/00004000.safetensors                 everything needed to resume at one step
    metrics.jsonl                              a line per logged step, each with its CRC-32
    LOCK                                       held by the one writer; readers need no lock

*The listing is the commit log.* A segment is built in memory and published whole under its final name (see `segments`
for the file and how it is committed); it is never written again, and whatever a kill leaves behind is a temporary file
that the next writer removes.

*A chain.* Each segment's header names the seal of the segment before it. A seal vouches for every byte of its own file,
so the last one vouches, through the chain, for all files before it. The run.json of a complete run names the last one,
the states and the digest of the metrics, so that none of them can go missing unnoticed.

*Resume is a proof.* Appending a step that is already committed writes nothing: it checks that the digests agree. A
trainer that restarts from an older full state and reaches the end of the trajectory has shown that it is bit-exact.
"""

from interp.store.reader import RunReader
from interp.store.verifying import VerifyReport
from interp.store.writer import RunWriter

__all__ = ["RunReader", "RunWriter", "VerifyReport"]
