"""Every figure of the papers this toolkit began with, with its claims tested: `interp reproduce K1`.

One room per paper, as data: `kitouni`, `hu`, `ahmed`, `beck`, and the field's `landmarks`. What several of them read
off the curves of a run is in `curves`.
"""
