"""The folder of one run: arrays and metrics on disk; a kill loses little, a flipped bit is noticed.

    run.json                                   the caller's description of the run; once it is complete, an inventory
                                               of its files; sealed with a SHA-256
    trajectory/00000000-00000063.safetensors   one *segment*: every array stacked [K, ...] over K steps
    state/00004000.safetensors                 everything needed to resume at one step
    metrics.jsonl                              a line per logged step, each with its CRC-32
    LOCK                                       held by the one writer; readers need no lock

*The listing is the commit log.* A segment is built in memory and published whole under its final name (`segments`
describes the file and the commit). It is never written again. A killed writer leaves at most temporary files, which the
next writer removes.

*A chain.* Each segment's header names the seal of the segment before it. A seal covers every byte of its own file, so
the last seal covers, through the chain, all files before it. A full state names the last segment before it, and the
length and digest of the metrics before it. The run.json of a complete run names the last segment, the full states and
the digest of the metrics, so that no file can go missing unnoticed. Every file names its run and its steps, so that
none can be renamed or taken from another run.

*A loss is computed again.* An unfinished run that has lost its last segments or metrics is continued from the newest
full state whose past is all there.

*Resuming proves exactness.* Appending a step that is already committed writes nothing: its digests are compared. A
trainer that restarts from an older full state and reaches the end of the trajectory has shown that it is bit-exact.
"""

from interp.store.reader import RunReader
from interp.store.verifying import VerifyReport
from interp.store.writer import RunWriter

__all__ = ["RunReader", "RunWriter", "VerifyReport"]
