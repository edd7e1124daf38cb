-- How often the server ended during an early part of this task's attempts, when the attempt began,
-- and when a resumable upload broke off.

ALTER TABLE tasks ADD COLUMN crashes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN attempt_at REAL;
ALTER TABLE tasks ADD COLUMN parked_at REAL;
