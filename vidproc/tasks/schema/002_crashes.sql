-- How often the server ended during an early part of this task's attempts, and when the attempt began.

ALTER TABLE tasks ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN attempt_at REAL;
