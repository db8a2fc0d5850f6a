"""When an incident was closed, as the keeper tells it."""

from __future__ import annotations

from watchdogd.incidents.cases import LINGER_NS, Case
from watchdogd.model import MILLISECOND, SECOND

NOW = 1000 * SECOND


def test_a_supervisor_that_ends_changes_nothing_of_when_its_incident_was_closed() -> None:
    case = Case("one")
    case.close("stopped", NOW)
    case.end(NOW + 20 * MILLISECOND, cuts_short=True)
    known = case.known(NOW + 20 * MILLISECOND)
    assert (known.state, known.outcome, known.closed_ns) == ("closed", "stopped", NOW)


def test_what_is_closed_is_written_whole_only_once_nothing_more_will_come() -> None:
    case = Case("one")
    case.close("recovered", NOW)
    assert case.due_ns == NOW + LINGER_NS
    assert case.known(NOW + 20 * MILLISECOND).state == "open"
    assert case.known(NOW + LINGER_NS).state == "closed"


def test_what_is_open_when_its_supervisor_ends_is_cut_short_and_due_at_once() -> None:
    case = Case("one")
    case.add_event({"kind": "signal"}, NOW)
    case.end(NOW, cuts_short=True)
    assert case.due_ns == NOW and case.known(NOW).state == "cut short"
