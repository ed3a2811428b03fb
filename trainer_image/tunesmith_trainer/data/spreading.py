"""Work spread over processes, its results in order: they are those that one process would give.

Jobs are done here as well: always while no worker is up, and whenever all have enough to do. So
starting workers, which takes as long as 5,000 rows of a chat, costs nothing but another CPU's time.
A bounded number of jobs is under way, so memory does not grow with their count. Workers are
spawned, not forked: threads run here (progress, S3, tokenizers' own), and a fork copies the locks
that they hold. Why not an executor of processes: decision 24. Called by ``tokenizing``.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, Generic, Self, TypeVar

from tunesmith_trainer.cpus import available_cpus
from tunesmith_trainer.outcome import Infrastructure, OutOfMemory, TrainerError

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")

_MOST_WORKERS = 3
"""What is done here, such as reading rows and writing tokens, does not go faster with more."""
_JOBS_A_WORKER = 2
"""The one it works on, and the one it goes on with."""
_RESULTS_A_WORKER = 2
"""Jobs that may be done, or under way here, while an earlier one is not."""


def spare_processes() -> int:
    """Give how many workers there are CPUs for, beside this process."""
    return min(_MOST_WORKERS, max(0, int(available_cpus()) - 1))


class Spread(Generic[_Job, _Result]):
    """Does jobs in this process and in workers, which end with the ``with`` block."""

    def __init__(
        self,
        here: Callable[[_Job], _Result],
        elsewhere: Callable[[], Callable[[_Job], _Result]],
        workers: int,
    ) -> None:
        """``elsewhere`` is called in each worker and gives what ``here`` is; it is pickled."""
        self._here = here
        self._most = workers * (_JOBS_A_WORKER + _RESULTS_A_WORKER)
        self._workers = [_Worker(elsewhere) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()

    def map(self, jobs: Iterable[_Job]) -> Iterator[_Result]:
        """Give the result of each job, in the order of jobs, which are asked for ahead of it.

        Raises what a job raised, or ``jobs`` themselves, after the results of those before it;
        OutOfMemory or Infrastructure where a worker was lost.
        """
        waiting: deque[Future[_Result]] = deque()
        for begun in self._begun(jobs):
            waiting.append(begun)
            while waiting and (waiting[0].done() or len(waiting) > self._most):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _begun(self, jobs: Iterable[_Job]) -> Iterator[Future[_Result]]:
        try:
            for job in jobs:
                yield self._begin(job)
        except Exception as error:
            failed: Future[_Result] = Future()
            failed.set_exception(error)
            yield failed

    def _begin(self, job: _Job) -> Future[_Result]:
        up = (worker for worker in self._workers if worker.is_up)
        worker = min(up, key=lambda worker: worker.jobs, default=None)
        if worker and worker.jobs < _JOBS_A_WORKER:
            return worker.begin(job)
        done: Future[_Result] = Future()
        done.set_result(self._here(job))
        return done


class _Worker:
    """A process, and the thread that talks to it."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        # What only it holds ends with it, whatever it was doing.
        theirs.close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spread")
        self._begun: list[Future[Any]] = []
        self._made = self.begin(make)

    @property
    def is_up(self) -> bool:
        """Whether it takes jobs. Raises as :meth:`Spread.map` where it is lost."""
        return self._made.done() and self._made.result() is None

    @property
    def jobs(self) -> int:
        """Jobs it has not done yet."""
        self._begun = [job for job in self._begun if not job.done()]
        return len(self._begun)

    def begin(self, job: Any) -> Future[Any]:
        future = self._thread.submit(self._ask, job)
        self._begun.append(future)
        return future

    def end(self) -> None:
        # Nobody wants what it still does.
        self._process.kill()
        self._thread.shutdown(cancel_futures=True)
        self._ours.close()
        self._process.join()

    def _ask(self, job: Any) -> Any:
        try:
            self._ours.send(job)
            result, error = self._ours.recv()
        except (EOFError, ConnectionError) as lost:
            raise self._lost() from lost
        if error is not None:
            raise error
        return result

    def _lost(self) -> TrainerError:
        self._process.join()
        code = self._process.exitcode
        if code == -signal.SIGKILL:
            return OutOfMemory(
                "A process that prepares rows was killed, most likely because memory ran out. Give"
                " the prepare stage more of it (in a cluster the chart's prepareResources)."
            )
        return Infrastructure(
            "InternalError", f"A process that prepares rows ended with exit code {code}."
        )


def _serve(connection: Connection) -> None:
    """Do jobs until nobody asks any more. Runs in the worker."""
    # Ctrl-C is for the process that asks: it ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Each worker is to take one CPU.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    work: Callable[[Any], Any] | None = None
    while True:
        try:
            given = connection.recv()
        except EOFError:
            return
        try:
            if work is None:
                work, result = given(), None
            else:
                result = work(given)
        except Exception as error:
            connection.send((None, error))
        else:
            connection.send((result, None))
