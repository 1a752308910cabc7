"""The part of an engine over several machines that only computes.

Comes in: the settings of the leader, with another rank. Goes out: nothing that anybody here sees: the leader
schedules, and the devices of all machines exchange what they compute. Invariant: equal settings on all
machines, or the group never gathers. Not here: when a follower ends (`services.worker.following`).
Source: vLLM 0.32 `entrypoints/cli/serve.py`, `run_headless`.
"""

from vllm.v1.executor.multiproc_executor import MultiprocExecutor

from services.engine.vllm import boot, environment
from services.engine.vllm.settings import VllmSettings


class Follower:
    """The devices of one machine that does not lead."""

    def __init__(self, settings: VllmSettings) -> None:
        """Prepare this process; nothing is loaded yet.

        Raises:
            ConfigurationInvalid: a pinned core does not exist.
        """
        environment.prepare(settings)
        self._settings = settings
        self._folder = environment.private_folder()
        self._executor: MultiprocExecutor | None = None

    def start(self) -> None:
        """Gather with the leader and load the model; blocks until all machines did, seconds to minutes."""
        sockets = f"ipc://{self._folder.name}"  # of events that only the leader's scheduler tells
        arguments = boot.engine_arguments(
            self._settings, events_endpoint=f"{sockets}/events", replay_endpoint=f"{sockets}/replay"
        )
        config = arguments.create_engine_config(headless=True)
        self._executor = MultiprocExecutor(config, monitor_workers=False)

    def wait(self) -> None:
        """Block until a device's process ends."""
        if self._executor is not None:
            self._executor.start_worker_monitor(inline=True)

    def close(self) -> None:
        """End the devices' processes."""
        if self._executor is not None:
            self._executor.shutdown()  # type: ignore[no-untyped-call]  # vLLM's own
        self._folder.cleanup()
