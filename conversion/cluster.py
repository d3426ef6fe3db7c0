"""A Dask cluster as the executor of a conversion, and its troubles in a line each."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor
from importlib.util import find_spec
from typing import TYPE_CHECKING

from conversion.errors import OutputError, UsageError

if TYPE_CHECKING:
    import distributed

WORKERS_WITHIN = 60  # seconds for the first worker to join and answer: batch systems start them after the scheduler
AGAIN = "run the same command again: it continues where it stopped"


@contextlib.contextmanager
def connected(address: str) -> Iterator[Executor]:
    """An executor on the cluster whose scheduler is at `address`, such as `tcp://host:8786`.

    How long it waits for the scheduler is Dask's own setting `distributed.comm.timeouts.connect`.

    Raises UsageError where the package `distributed` is not installed, OutputError where the cluster cannot be used or
    is lost while the context lasts.
    """
    try:
        import distributed
        from distributed.comm import resolve_address
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise UsageError(
            f"--dask: {error.name} is not installed. Install the extra [dask]: `pip install '.[dask]'`"
        ) from None
    for name in ("distributed", "distributed.client", "tornado", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # each trouble ends in one line of ours
    try:
        resolve_address(address)  # a client of what is no address takes a minute to close
        client = distributed.Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise OutputError(
            f"{address}: no Dask scheduler answers there ({why}). Start one, or correct the address"
        ) from None
    with client:
        try:
            client.submit(int, pure=False).result(timeout=WORKERS_WITHIN)
        except distributed.TimeoutError:
            raise OutputError(
                f"{address}: no worker of this Dask scheduler answers within {WORKERS_WITHIN} s. Start "
                f"workers that it can reach and {AGAIN}"
            ) from None
        _check_installed(client, address)
        try:
            yield client.get_executor()
        except KilledWorker as error:
            raise OutputError(
                f"{address}: {error.allowed_failures + 1} workers died one after another at one shard, "
                f"the last of them {error.last_worker.address}. See their logs, give them more memory "
                f"and {AGAIN}"
            ) from None
        except CancelledError:
            raise OutputError(
                f"{address}: the connection to the Dask scheduler was lost. Start it again and {AGAIN}"
            ) from None


def _check_installed(client: distributed.Client, address: str) -> None:
    """Without mmm-rs a worker dies of the first task that it is sent, and a scheduler takes none."""
    specs = {"the scheduler": client.run_on_scheduler(find_spec, "conversion"), **client.run(find_spec, "conversion")}
    lacking = [place for place, spec in specs.items() if spec is None]
    if lacking:
        raise OutputError(
            f"{address}: mmm-rs is not installed for {' and '.join(lacking)}. Install the same version "
            f"as here and {AGAIN}"
        )
