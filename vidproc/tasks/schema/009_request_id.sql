-- The id of the request that completed a task's upload: it stands in the task's log lines.

ALTER TABLE tasks ADD COLUMN request_id TEXT;
