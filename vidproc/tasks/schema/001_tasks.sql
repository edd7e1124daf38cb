-- One row a task, from its admission on. Times are seconds since the epoch, sizes bytes; keys are
-- paths relative to the data folder; owner, lease_until and attempt say who works on it.

CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL UNIQUE,
    type TEXT NOT NULL,
    parameters TEXT NOT NULL,
    peer TEXT NOT NULL,
    principal TEXT,
    state TEXT NOT NULL,
    media_type TEXT NOT NULL,
    filename TEXT,
    created_at REAL NOT NULL,
    queued_at REAL,
    started_at REAL,
    completed_at REAL,
    input_key TEXT,
    input_size INTEGER NOT NULL,
    upload_id TEXT UNIQUE,
    upload_sha256 TEXT,
    output_key TEXT,
    output_type TEXT,
    output_size INTEGER,
    output_sha256 TEXT,
    downloaded_at REAL,
    input TEXT NOT NULL,
    output TEXT NOT NULL,
    warnings TEXT NOT NULL,
    failure TEXT,
    owner TEXT,
    lease_until REAL,
    attempt INTEGER NOT NULL,
    failures INTEGER NOT NULL
);

CREATE INDEX tasks_by_state ON tasks (state, seq);
CREATE INDEX tasks_active_by_peer ON tasks (peer) WHERE state IN ('uploading', 'queued', 'processing');
