"""Every figure of the papers this toolkit began with, with its claims tested: `interp reproduce K1`.

One module per paper, as data: `kitouni`, `hu`, `ahmed`, `beck`, and the field's `landmarks`.
"""
