"""Stop signals, also where the code that they interrupt swallows exceptions."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from nas_agg.study.definition.signals import Stopped, check_stopped, shielded, stoppable


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_signal_is_raised_again(number):
    with pytest.raises(Stopped) as error, stoppable():
        check_stopped()
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), number)
        check_stopped()
    assert error.value.status == 128 + number
    check_stopped()  # the context is left, so nothing is to be stopped


def test_a_signal_waits_for_the_end_of_a_write():
    steps = []
    with pytest.raises(Stopped), stoppable(), shielded():
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("written")
    assert steps == ["written"]
