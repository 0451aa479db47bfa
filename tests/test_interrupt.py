import os
import signal
import subprocess
import sys
import threading

import pytest

from compressor.machine.interrupt import interruptible


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_asks_and_the_second_raises(number):
    with interruptible() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)


def test_handlers_come_back_even_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before

    with pytest.raises(ZeroDivisionError), interruptible():
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_another_thread_changes_no_handler():
    before, seen = signal.getsignal(signal.SIGINT), []

    def run():
        with interruptible() as stop:
            seen.append((signal.getsignal(signal.SIGINT), stop.requested))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert seen == [(before, False)]


@pytest.mark.starts
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_commands_are_imported_ends_with_130_and_says_nothing(number):
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a suite in the background is started without
import compressor.__main__ as start

class Struck:
    def find_spec(self, name, path=None, target=None):
        if name == "compressor.cli":
            os.kill(os.getpid(), {int(number)})

sys.meta_path.insert(0, Struck())
sys.argv = ["compress", "--version"]
start.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.starts
def test_a_signal_that_was_ignored_stays_so():
    program = """
import os, signal, sys
import compressor.__main__ as start
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv = ["compress", "--version"]
try:
    start.main()
finally:
    os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
