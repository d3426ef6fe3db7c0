"""What the test servers share."""

from __future__ import annotations

import sys
from http.server import ThreadingHTTPServer
from typing import Any


class LoopbackServer(ThreadingHTTPServer):
    """Takes many connections at once, waits for no client when it ends, and says nothing of clients that went away."""

    daemon_threads, block_on_close = True, False
    request_queue_size = 256  # with the usual 5, a client that opens 32 connections waits a second for some of them

    def __init__(self, handler: type) -> None:
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
