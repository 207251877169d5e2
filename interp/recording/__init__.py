"""Recording: a dense trajectory of any `torch.nn.Module`, trained by any loop, in three added lines.

    with interp.record("checkpoints/mine", model, optimizer=opt, save="every(1, until=100) | log(200)") as rec:
        for batch in loader:
            ...                                   # forward, backward, opt.step(): untouched
            rec.step(train_loss=loss)
    traj = rec.trajectory

`recorder` has the context manager, `optimizers` the state of any torch optimiser as arrays, `staging` the way of the
weights from the device to the writer.
"""

from interp.recording.recorder import Recorder, record, record_files

__all__ = ["Recorder", "record", "record_files"]
