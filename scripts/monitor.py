"""QEMU's monitor, for the scripts that measure a QEMU that nobody manages."""

import json
import socket
import time


class Monitor:
    """A QEMU's monitor."""

    def __init__(self, path):
        until = time.monotonic() + 30
        while True:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(path)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > until:
                    raise
                time.sleep(0.001)
        self.file = self.socket.makefile("rw")
        self.events = []
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, name, fd=None, **arguments):
        text = json.dumps({"execute": name, "arguments": arguments}) + "\n"
        if fd is None:
            self.socket.sendall(text.encode())
        else:
            socket.send_fds(self.socket, [text.encode()], [fd])
        while True:
            answer = json.loads(self.file.readline())
            if "event" in answer:
                self.events.append(answer)
                continue
            if "error" in answer:
                raise RuntimeError(f"{name}: {answer['error']['desc']}")
            return answer["return"]
