"""The states of a task and the moves between them."""

from twisted.trial.unittest import SynchronousTestCase

from vidproc.tasks.model import (
    ACTIVE,
    TERMINAL,
    TRANSITIONS,
    InvalidTransition,
    State,
    Task,
    new_task_id,
)


class TransitionTests(SynchronousTestCase):
    def test_every_state_is_in_the_table(self) -> None:
        self.assertEqual(set(TRANSITIONS), set(State))
        self.assertEqual(ACTIVE & TERMINAL, frozenset())
        self.assertEqual(ACTIVE | TERMINAL | {State.PARTIAL}, set(State))

    def test_every_state_reaches_a_terminal_one(self) -> None:
        for state in set(State) - TERMINAL:
            reached: set[State] = set()
            frontier = {state}
            while frontier:
                reached |= frontier
                frontier = {later for now in frontier for later in TRANSITIONS[now]} - reached
            self.assertTrue(reached & TERMINAL, state)

    def test_every_waiting_or_running_task_can_fail_and_be_cancelled(self) -> None:
        for state in (State.QUEUED, State.PROCESSING):
            self.assertIn(State.CANCELLED, TRANSITIONS[state])
            self.assertIn(State.FAILED, TRANSITIONS[state])

    def test_terminal_states_but_completed_go_nowhere(self) -> None:
        for state in TERMINAL - {State.COMPLETED}:
            self.assertEqual(TRANSITIONS[state], frozenset(), state)
        self.assertEqual(TRANSITIONS[State.COMPLETED], {State.EXPIRED})

    def test_only_processing_completes(self) -> None:
        before = {state for state, later in TRANSITIONS.items() if State.COMPLETED in later}
        self.assertEqual(before, {State.PROCESSING})

    def test_an_accepted_task_never_becomes_an_upload_again(self) -> None:
        uploads = {State.UPLOADING, State.PARTIAL}
        for state in set(State) - uploads:
            self.assertEqual(TRANSITIONS[state] & uploads, frozenset(), state)

    def test_no_state_leads_to_itself(self) -> None:
        for state, later in TRANSITIONS.items():
            self.assertNotIn(state, later)

    def test_the_names_on_the_wire(self) -> None:
        self.assertEqual(
            {str(state) for state in State} - {"uploading", "partial"},
            {"queued", "processing", "completed", "failed", "cancelled", "expired"},
        )

    def test_an_invalid_transition_says_which(self) -> None:
        error = InvalidTransition("t1", State.FAILED, State.QUEUED)
        self.assertEqual(str(error), "task t1 is failed and can't become queued")
        self.assertEqual((error.current, error.wanted), (State.FAILED, State.QUEUED))


class TaskTests(SynchronousTestCase):
    def test_ids_are_128_random_bits_in_hexadecimal(self) -> None:
        ids = {new_task_id() for _ in range(1000)}
        self.assertEqual(len(ids), 1000)
        for task_id in ids:
            self.assertRegex(task_id, r"\A[0-9a-f]{32}\Z")

    def test_tasks_do_not_share_their_defaults(self) -> None:
        def make() -> Task:
            return Task(task_id=new_task_id(), type="gif", parameters={}, peer="::1", created_at=0)

        first, second = make(), make()
        first.warnings.append("a warning")
        first.output["width"] = 16
        self.assertEqual((second.warnings, second.output), ([], {}))
