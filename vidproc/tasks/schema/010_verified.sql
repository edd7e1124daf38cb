-- How many bytes of an upload count as received while the rest still has to fit a checksum; NULL if
-- all of them do.

ALTER TABLE tasks ADD COLUMN verified INTEGER;
