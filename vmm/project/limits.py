"""Every bound of a project's machines, by name."""

from typing import Final

pause_seconds_min: Final = 0.5  # before a machine is started again that ended at once; then twice as long each time
pause_seconds_max: Final = 60.0
steady_seconds: Final = 20.0  # a run as long as this is a good one: the pauses begin anew

look_seconds: Final = 2.0  # between two looks whether .mc is still there
runs_kept_max: Final = 10  # of one machine, with their logs, besides the one that runs
answer_seconds: Final = 30.0  # for a supervisor to answer, or a new one to begin
revive_seconds: Final = 30.0  # for one that was killed to be replaced
begin_seconds: Final = 60.0  # for a machine's own supervisor to say that it is there
persist_seconds: Final = 1.0  # before a machine's supervisor that did not answer is asked again
overdue_seconds: Final = 120.0  # after a machine should have ended, for its tree to be saved; then it is killed
clients_max: Final = 64  # that talk to a supervisor at a time
abandon_seconds: Final = 30.0  # for a machine to end whose project is gone
unsaved_seconds: Final = 3.0  # for what it had mounted to be saved then, if that still can be
report_bytes_max: Final = 1024 * 1024
line_bytes_max: Final = 64 * 1024  # of a log, in one piece with the machine's name before it
tail_lines: Final = 10  # of the log of a machine that failed
error_bytes_max: Final = 1000
retry_seconds: Final = 0.05  # before it is looked again whether a supervisor that another began answers
tries_max: Final = 5  # to be heard by a supervisor, of which one may just be ending
