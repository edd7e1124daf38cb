-- How often the server crashed while this task alone ran, and until when it pauses after crashes.

ALTER TABLE tasks ADD COLUMN crashes_alone INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tasks ADD COLUMN not_before REAL;
