"""Recording where people train: callbacks of other libraries' trainers, each around `interp.record`.

`lightning` has a callback of Lightning's Trainer, `transformers` one of Hugging Face's; each module imports its
library, and names the extra to install where it is missing. `fits` has their common part.
"""
