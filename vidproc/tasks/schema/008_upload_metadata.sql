-- What a client of tus has said of its upload, which it is told again as it was.

ALTER TABLE tasks ADD COLUMN upload_metadata TEXT;
