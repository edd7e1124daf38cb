-- When an upload was created before its first byte; such a one is kept for a while without any.

ALTER TABLE tasks ADD COLUMN announced_at REAL;
