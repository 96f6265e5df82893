"""The tables of the ledger, and the columns of a task."""

APPLICATION = 0x6171_6C64  # "aqld", kept in the file's header
VERSION = 2

COLUMNS = {
    "id": "INTEGER PRIMARY KEY",  # its place in the list, see `places`
    "task_id": "TEXT NOT NULL UNIQUE",
    "state": "TEXT",  # NULL until it is known to be submitted, started or ended
    "agent": "TEXT",
    "type": "TEXT",
    "sender": "TEXT",
    "priority": "TEXT",
    "title": "TEXT",
    "labels": "TEXT",
    "grp": "TEXT",
    "members": "INTEGER NOT NULL DEFAULT 0",
    "stirring": "INTEGER NOT NULL DEFAULT 0",  # of a group: whether one of its tasks is not pending
    "depends_on": "TEXT",
    "requires_approval": "INTEGER NOT NULL DEFAULT 0",
    "not_before": "REAL",
    "ttl_seconds": "REAL",
    "retry_of": "TEXT",
    "heard_at": "REAL",  # the earliest moment known of it
    "created_at": "REAL",
    "released_at": "REAL",
    "until": "REAL",
    "retry_attempt": "INTEGER NOT NULL DEFAULT 0",
    "retry_at": "REAL",
    "claimed": "INTEGER NOT NULL DEFAULT 0",
    "claimed_at": "REAL",
    "first_claimed_at": "REAL",
    "worker": "TEXT",
    "host": "TEXT",
    "ended": "INTEGER NOT NULL DEFAULT 0",
    "ended_at": "REAL",
    "ended_reason": "TEXT",
    "counted": "INTEGER NOT NULL DEFAULT 0",
    "cancel_at": "REAL",
    "approved_at": "REAL",
    "outcome": "TEXT",
    "finished_at": "REAL",
    "by_": "TEXT",
    "verified": "INTEGER",
    "reason": "TEXT",
    "summary": "TEXT",
    "result_ref": "TEXT",
    "input_tokens": "INTEGER",
    "output_tokens": "INTEGER",
    "cost_usd": "REAL",
    "seconds": "REAL",
    "at_least": "INTEGER NOT NULL DEFAULT 0",  # whether the four before may have been more
    "dead_lettered_at": "REAL",
    "settled_at": "REAL",
    "doing": "TEXT",
    "doing_at": "REAL",
    "doing_attempt": "INTEGER NOT NULL DEFAULT 0",
}

SCHEMA = f"""
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE tasks ({", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())});
CREATE INDEX by_state ON tasks (state);
CREATE INDEX by_group ON tasks (grp) WHERE grp IS NOT NULL;
CREATE INDEX by_retry ON tasks (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX by_end ON tasks (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX by_dead_letter ON tasks (dead_lettered_at) WHERE dead_lettered_at IS NOT NULL;
CREATE VIRTUAL TABLE found USING fts5 (
  words, content = '', detail = none, prefix = '4 5 6 7 8', tokenize = 'unicode61');
CREATE TABLE events (
  task_id TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (task_id, id)) WITHOUT ROWID;
CREATE TABLE workers (
  worker TEXT PRIMARY KEY, agent TEXT, host TEXT, pid INTEGER, version TEXT, parallel INTEGER, store TEXT,
  heartbeat_seconds REAL, lease_seconds REAL, boot TEXT, started TEXT, up_at REAL, heard_at REAL NOT NULL, running TEXT,
  state TEXT NOT NULL, reason TEXT) WITHOUT ROWID;
CREATE TABLE refused (id TEXT PRIMARY KEY, at REAL NOT NULL, reason TEXT, agent TEXT) WITHOUT ROWID;
CREATE TABLE beats (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, host TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE positions (log TEXT PRIMARY KEY, position TEXT NOT NULL, as_of REAL NOT NULL, gap INTEGER NOT NULL)
  WITHOUT ROWID;
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {VERSION};
COMMIT;
"""
"""`found` has the words that people search in and one for each thing to filter by (see `marks`); its rowid is the id of
the task. So any combination of filters is an intersection of lists that stand in the order of the list. Beginnings of
words have lists of their own: they are not put together from those of all words that begin so."""
PREFIXES = range(4, 9)
