"""What tests of figures share: planted results are changed, and claims judged by them."""


def changed(name, value, **at):
    """A change of planted results: `name` is `value` at some places, or everywhere."""

    def change(data):
        data[name][at if at else ...] = value

    return change


def judged(figure, i, data, change=None):
    """The verdict on a figure's i-th claim by `data`, after a change of it."""
    if change is not None:
        change(data)
    return figure.claims[i].judge(data)


def assert_holds_fails_abstains(figure, i, planted, broken, undecided):
    """The claim holds by what `planted()` returns, fails once that is `broken`, abstains where it is `undecided`."""
    assert judged(figure, i, planted()).verdict == "held"
    assert judged(figure, i, planted(), broken).verdict == "did not hold"
    found = judged(figure, i, planted(), undecided)
    assert found.verdict == "not testable here"
    assert found.reason == f"needs {figure.claims[i].needs}"


def assert_variables_of(real, planted):
    """Whether planted results have the variables of real ones, over the same dimensions."""
    for name, variable in planted.data_vars.items():
        assert real[name].dims == variable.dims, name
