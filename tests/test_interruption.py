import os
import signal
import subprocess
import sys
import threading

import pytest

from jaxrobust.distributed.interruption import StopRequest


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_a_signal_is_remembered_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # sent twice in a row, as schedulers do
        assert stop and stop.signal_number == number
    assert signal.getsignal(number) is before


def test_one_in_the_context_of_another_shares_what_it_is_told():
    with StopRequest() as outer:
        with StopRequest() as inner:
            assert not inner
            os.kill(os.getpid(), signal.SIGTERM)
        assert outer and outer.signal_number == signal.SIGTERM
        with StopRequest() as later:
            assert later and later.signal_number == signal.SIGTERM
    with StopRequest() as other:
        assert not other


def test_asked_again_by_hand_it_dies():
    program = """
import os, signal, time
from jaxrobust.distributed import interruption
interruption.PATIENCE_SECONDS = 0.05
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell takes from what it runs in the background
with interruption.StopRequest():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)
    print("alive")
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    result = subprocess.run([sys.executable, "-c", program], timeout=300, capture_output=True, text=True)
    assert "KeyboardInterrupt" in result.stderr and result.stdout == "alive\n"


def test_another_thread_does_without():
    outcome = []

    def work():
        with StopRequest() as stop:
            outcome.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert outcome == [False]
