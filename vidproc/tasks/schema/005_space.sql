-- The bytes that are kept of a broken upload, and a way to the results that may be removed.

ALTER TABLE tasks ADD COLUMN received INTEGER NOT NULL DEFAULT 0;
CREATE INDEX tasks_kept ON tasks (completed_at, downloaded_at, output_size)
    WHERE state = 'completed' AND output_key IS NOT NULL;
