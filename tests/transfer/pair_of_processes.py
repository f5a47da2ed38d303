"""One program in two processes that find each other on this machine."""

import json
import os
import socket
import subprocess
import sys


def said_by_two(program, *arguments):
    """What each process prints last, as JSON: given a port and its number as well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {key: text for key, text in os.environ.items() if key != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    running = [
        subprocess.Popen(
            [sys.executable, program, *arguments, str(port), str(process)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in range(2)
    ]
    try:
        # Before the last line, the processes say that they have found each other.
        texts = [process.communicate(timeout=120)[0] for process in running]
        return [json.loads(text.splitlines()[-1]) for text in texts]
    finally:
        for process in running:
            process.kill()
