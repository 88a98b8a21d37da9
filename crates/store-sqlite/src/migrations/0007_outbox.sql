-- That others may have to be told of an end, written in the act's own transaction; gone once messages were made of it.
CREATE TABLE notices (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    -- 'session', 'grant' (of `session`), 'account', 'client' or 'all'.
    scope         TEXT    NOT NULL,
    target        BLOB,
    session       BLOB,
    except_id     BLOB,
    rev           INTEGER NOT NULL,
    -- The cut that stood there before.
    before_rev    INTEGER NOT NULL,
    before_except BLOB,
    at            INTEGER NOT NULL,
    -- The session up to which messages were made.
    cursor        BLOB
) STRICT;

-- Messages on their way out. The body is the business of the kind; no secret is in it.
CREATE TABLE messages (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    kind       TEXT    NOT NULL,
    client     BLOB,
    body       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    -- When it is tried next; while it is claimed, when the claim lapses.
    next_at    INTEGER NOT NULL,
    give_up_at INTEGER NOT NULL,
    tries      INTEGER NOT NULL,
    state      TEXT    NOT NULL,
    settled_at INTEGER,
    last_error TEXT,
    version    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX messages_due ON messages (next_at, id) WHERE state = 'waiting';
CREATE INDEX messages_settled ON messages (state, settled_at) WHERE state <> 'waiting';
