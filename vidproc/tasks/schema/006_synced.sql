-- How many bytes of an upload outlive a power cut, and the boot of the machine under which the
-- server ran last: what was written under the same boot is there even if it was not synced.

ALTER TABLE tasks ADD COLUMN synced INTEGER;
CREATE TABLE boot (id TEXT NOT NULL);
