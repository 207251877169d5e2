"""A warm process for all attacks."""

import pytest

from tests.soak.zygote import Zygote


@pytest.fixture(scope="session")
def zygote():
    with Zygote() as warm:
        yield warm
