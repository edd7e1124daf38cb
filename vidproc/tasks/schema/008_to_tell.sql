-- Whether the operator's command (--on-done) has still to be told that this task has ended.

ALTER TABLE tasks ADD COLUMN to_tell INTEGER;
CREATE INDEX tasks_to_tell ON tasks (seq) WHERE to_tell IS NOT NULL;
