"""The queue against a model of it: any order of calls, clocks and lost workers included."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import postgres_server
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from lightfill.engine.errors import JobNotFound, QueueFull, StillInProgress
from lightfill.engine.fal import jobs_table
from lightfill.engine.fal.job import Claim
from lightfill.engine.fal.queue import JobQueue

LEASE_S, RETENTION_S, MAX_LENGTH, MAX_LOSSES = 30.0, 200.0, 6, 3


@dataclass
class Job:
    """What the model knows of a job."""

    place: tuple[int, int]
    deadline: float | None
    state: str = "IN_QUEUE"
    claim: Claim | None = None
    lease_until: float = 0
    losses: int = 0
    cancelled: bool = False
    completed_at: float = 0
    status_code: int | None = None
    body: dict[str, Any] | None = None
    messages: list[str] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """`queues` and `clock` are set on the class by the test."""

    queues: list[JobQueue]
    clock: Any
    empty: Any

    requests: Bundle[str] = Bundle("requests")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        type(self).empty()
        self.jobs: dict[str, Job] = {}
        self.submitted = 0
        self.turn = 0

    @property
    def queue(self) -> JobQueue:
        """Another one at every call, as if every call came from another process."""
        self.turn += 1
        return self.queues[self.turn % len(self.queues)]

    # The model

    def waiting(self) -> list[str]:
        found = [name for name, job in self.jobs.items() if job.state == "IN_QUEUE"]
        return sorted(found, key=lambda name: self.jobs[name].place)

    def complete(self, job: Job, status_code: int, body: dict[str, Any] | None = None) -> None:
        job.state, job.status_code, job.body = "COMPLETED", status_code, body
        job.claim, job.completed_at = None, self.clock.now

    def settle(self, job: Job) -> None:
        """What time alone does to a job."""
        if job.state == "IN_QUEUE" and job.deadline is not None and job.deadline <= self.clock.now:
            self.complete(job, 504)
        if job.state == "IN_PROGRESS" and job.lease_until <= self.clock.now:
            self.lose(job)

    def lose(self, job: Job) -> None:
        if job.cancelled:
            self.complete(job, 499)
        elif job.losses + 1 >= MAX_LOSSES:
            self.complete(job, 503)
        else:
            assert job.claim is not None
            job.messages.append(f"worker {job.claim.worker} fell silent; the request runs again")
            job.state, job.claim, job.losses = "IN_QUEUE", None, job.losses + 1

    def owns(self, claim: Claim) -> Job | None:
        """The job, if the claim is still its last and nobody noticed a lost lease."""
        job = self.jobs.get(claim.request_id)
        return job if job is not None and job.claim == claim else None

    # What callers do

    @rule(
        target=requests,
        priority=st.sampled_from(["normal", "low"]),
        start_timeout=st.sampled_from([None, None, 5.0, 40.0]),
        limit=st.sampled_from([None, None, 2]),
    )
    def submit(self, priority: Any, start_timeout: float | None, limit: int | None) -> str:
        room = MAX_LENGTH if limit is None else min(MAX_LENGTH, limit + 1)
        name = f"request-{self.submitted}"
        self.submitted += 1
        options: Any = {"priority": priority, "start_timeout": start_timeout, "request_id": name}
        if len(self.waiting()) >= room:
            for job in self.jobs.values():  # a full queue looks for those that need no room
                self.settle(job)
        if len(self.waiting()) >= room:
            with pytest.raises(QueueFull):
                self.queue.submit("app", {"n": name}, max_length=limit, **options)
            return name
        assert self.queue.submit("app", {"n": name}, max_length=limit, **options) == name
        deadline = None if start_timeout is None else self.clock.now + start_timeout
        self.jobs[name] = Job((int(priority == "low"), self.submitted), deadline)
        return name

    @rule(name=requests)
    def cancel(self, name: str) -> None:
        job = self.jobs.get(name)
        if job is None:
            with pytest.raises(JobNotFound):
                self.queue.cancel(name)
            return
        self.settle(job)
        already = job.state == "COMPLETED"
        expected = "ALREADY_COMPLETED" if already else "CANCELLATION_REQUESTED"
        assert self.queue.cancel(name) == expected
        if job.state == "IN_QUEUE":
            self.complete(job, 499)
        elif job.state == "IN_PROGRESS":
            job.cancelled = True

    @rule(name=requests)
    def look(self, name: str) -> None:
        job = self.jobs.get(name)
        if job is None:
            with pytest.raises(JobNotFound):
                self.queue.status(name)
            return
        self.settle(job)
        status = self.queue.status(name, with_logs=True)
        assert status.state == job.state
        assert status.position == (self.waiting().index(name) if job.state == "IN_QUEUE" else None)
        assert [entry["message"] for entry in status.logs or []] == job.messages
        if job.state != "COMPLETED":
            with pytest.raises(StillInProgress):
                self.queue.result(name)
            return
        result = self.queue.result(name)
        assert result.status_code == job.status_code
        assert job.body is None or result.body == job.body
        assert (status.error_type is None) == (result.status_code == 200)

    # What workers do

    @rule(target=claims, worker=st.sampled_from("AB"))
    def claim(self, worker: str) -> Claim | None:
        for job in self.jobs.values():
            self.settle(job)
        waiting = self.waiting()
        claim = self.queue.claim(worker)
        if not waiting:
            assert claim is None
            return None
        assert claim is not None
        assert claim.request_id == waiting[0], "by priority, then by submission"
        assert claim.arguments == {"n": waiting[0]}
        job = self.jobs[waiting[0]]
        job.state, job.claim, job.deadline = "IN_PROGRESS", claim, None
        job.lease_until = self.clock.now + LEASE_S
        return claim

    @rule(claim=claims)
    def heartbeat(self, claim: Claim | None) -> None:
        if claim is None:
            return
        job = self.owns(claim)
        assert self.queue.heartbeat(claim) == (job is not None and not job.cancelled)
        if job is not None and not job.cancelled:
            job.lease_until = self.clock.now + LEASE_S

    @rule(claim=claims, message=st.sampled_from(["step 1/2", "step 2/2"]))
    def log(self, claim: Claim | None, message: str) -> None:
        if claim is None:
            return
        self.queue.log(claim, message)
        if (job := self.owns(claim)) is not None:
            job.messages.append(message)

    @rule(claim=claims, status_code=st.sampled_from([200, 200, 422]))
    def finish(self, claim: Claim | None, status_code: int) -> None:
        """Claims are not consumed: workers that lost theirs, or finished, try again."""
        if claim is None:
            return
        job = self.owns(claim)
        body = {"by": f"{claim.worker} {claim.number}"}
        assert self.queue.finish(claim, status_code, body, {}) == (job is not None)
        if job is not None:
            self.complete(job, status_code, body)

    @rule(claim=consumes(claims))
    def give_back(self, claim: Claim | None) -> None:
        if claim is None:
            return
        job = self.owns(claim)
        assert self.queue.give_back(claim) == (job is not None)
        if job is not None and job.cancelled:
            self.complete(job, 499)
        elif job is not None:
            job.state, job.claim = "IN_QUEUE", None

    # Time

    @rule(seconds=st.sampled_from([1.0, 4.0, 16.0, LEASE_S, 150.0]))
    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: self.jobs)
    @rule()
    def sweep(self) -> None:
        expired = {
            name
            for name, job in self.jobs.items()
            if job.state == "COMPLETED" and job.completed_at + RETENTION_S <= self.clock.now
        }
        assert self.queue.sweep() == len(expired)
        self.jobs = {name: job for name, job in self.jobs.items() if name not in expired}

    @invariant()
    def as_many_wait_as_should(self) -> None:
        assert self.queue.length() == len(self.waiting())


@pytest.mark.slow  # 80 runs of up to 50 steps, each a transaction that reaches the disk
@pytest.mark.parametrize(("kind", "examples"), [("sqlite", 80), ("postgresql", 20)])
def test_the_queue_does_what_its_model_does(
    kind: str, examples: int, tmp_path: Path, clock: Any, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'queue.sqlite3'}"
    if kind == "postgresql":
        url = postgres_server.fresh_schema(request.getfixturevalue("postgres"))
    queues = [
        JobQueue.open(
            url,
            max_length=MAX_LENGTH,
            retention_s=RETENTION_S,
            lease_s=LEASE_S,
            max_losses=MAX_LOSSES,
            clock=clock,
        )
        for _ in range(2)
    ]
    database = queues[0]._database

    def empty() -> None:
        for table in (jobs_table.logs, jobs_table.results, jobs_table.arguments, jobs_table.jobs):
            database.write_lightly(
                lambda connection, table=table: connection.execute(delete(table))
            )
        if kind == "sqlite":
            count = delete(jobs_table.waiting_blocks)
            database.write_lightly(lambda connection: connection.execute(count))

    machine = type(
        "Machine", (QueueMachine,), {"queues": queues, "clock": clock, "empty": staticmethod(empty)}
    )
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=50,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        for queue in queues:
            queue.close()
