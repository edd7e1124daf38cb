-- A token's own tasks, newest first.

CREATE INDEX tasks_by_principal ON tasks (principal, seq) WHERE principal IS NOT NULL;
