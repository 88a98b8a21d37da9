-- Ids are 16 bytes, big-endian; times are milliseconds since 1970 by the database's clock; a rev is a position in the log.
-- A cut is the rev of the last end of a scope and the one session that it spares; `born` is compared with it.

-- The counter's row: where the log stands, and what stands beside it.
CREATE TABLE meta (
    one             INTEGER PRIMARY KEY CHECK (one = 1),
    log             BLOB    NOT NULL CHECK (length(log) = 16),
    epoch           INTEGER NOT NULL,
    head            INTEGER NOT NULL,
    chain           BLOB    NOT NULL CHECK (length(chain) = 32),
    horizon         INTEGER NOT NULL,
    floor           INTEGER NOT NULL,
    cut_rev         INTEGER NOT NULL,
    cut_except      BLOB,
    -- The highest rev whose entry was forgotten; what is forgotten is a prefix of the log.
    forgotten       INTEGER NOT NULL,
    bound_now_ms    INTEGER,
    bound_next_ms   INTEGER,
    bound_next_from INTEGER
) STRICT;

-- The revocation log, as far as it is not forgotten.
CREATE TABLE log (
    rev       INTEGER PRIMARY KEY,
    verb      TEXT    NOT NULL,
    scope     TEXT    NOT NULL,
    target    TEXT    NOT NULL,
    except_id BLOB,
    spread_ms INTEGER,
    until     INTEGER NOT NULL
) STRICT;

CREATE TABLE accounts (
    id               BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    email            TEXT,
    name             TEXT,
    password_hash    TEXT,
    password_version INTEGER NOT NULL,
    roles            TEXT    NOT NULL,
    -- 'active', 'blocked' (reason, actor, at, until) or 'deleted' (at, rev).
    status           TEXT    NOT NULL,
    status_reason    TEXT,
    status_actor     TEXT,
    status_at        INTEGER,
    status_until     INTEGER,
    status_rev       INTEGER,
    created_at       INTEGER NOT NULL,
    cut_rev          INTEGER NOT NULL,
    cut_except       BLOB,
    version          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX accounts_by_email ON accounts (email) WHERE email IS NOT NULL;

CREATE TABLE sessions (
    id                  BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    account             BLOB    NOT NULL,
    kind                TEXT    NOT NULL,
    device_name         TEXT    NOT NULL,
    agent               TEXT    NOT NULL,
    ip                  TEXT,
    created_at          INTEGER NOT NULL,
    auth_time           INTEGER NOT NULL,
    last_seen_at        INTEGER NOT NULL,
    absolute_expires_at INTEGER NOT NULL,
    born                INTEGER NOT NULL,
    epoch               INTEGER NOT NULL,
    cookie              BLOB,
    ended_rev           INTEGER,
    ended_reason        TEXT,
    ended_at            INTEGER
) STRICT, WITHOUT ROWID;
-- Lists, and the exact count of what an end of the account ends.
CREATE INDEX sessions_by_account ON sessions (account, created_at) WHERE ended_rev IS NULL;
CREATE INDEX sessions_ended ON sessions (account, ended_rev) WHERE ended_rev IS NOT NULL;

-- A refresh updates one row of this table in place and nothing else: no index covers a column that it changes.
CREATE TABLE grants (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    session     BLOB    NOT NULL,
    client      BLOB    NOT NULL,
    scope       TEXT    NOT NULL,
    born        INTEGER NOT NULL,
    secret      BLOB    NOT NULL CHECK (length(secret) = 32),
    mac_key     INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    counter     INTEGER NOT NULL,
    made_at     INTEGER NOT NULL,
    handed_at   INTEGER NOT NULL,
    handouts    INTEGER NOT NULL,
    predecessor INTEGER,
    ended_rev   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX grants_by_session ON grants (session);

CREATE TABLE clients (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    name       TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    secret     BLOB,
    disabled   INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    cut_rev    INTEGER NOT NULL,
    cut_except BLOB
) STRICT, WITHOUT ROWID;

CREATE TABLE instances (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    client     BLOB    NOT NULL,
    name       TEXT    NOT NULL,
    policy     TEXT    NOT NULL,
    bound_ms   INTEGER NOT NULL,
    secret     BLOB    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id          INTEGER PRIMARY KEY,
    purpose     TEXT    NOT NULL,
    public_jwk  TEXT    NOT NULL,
    sealed      BLOB    NOT NULL,
    created_at  INTEGER NOT NULL,
    active_from INTEGER,
    retired_at  INTEGER,
    dead        INTEGER
) STRICT;

-- Audit records, in the order of their commits.
CREATE TABLE events (
    seq     INTEGER PRIMARY KEY,
    id      BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    kind    TEXT    NOT NULL,
    actor   TEXT    NOT NULL,
    account BLOB,
    session BLOB,
    client  BLOB,
    ip      TEXT,
    reason  TEXT,
    at      INTEGER NOT NULL,
    rev     INTEGER,
    ended   INTEGER
) STRICT;
CREATE INDEX events_by_account ON events (account, seq) WHERE account IS NOT NULL;
CREATE INDEX events_by_rev ON events (rev, seq) WHERE rev IS NOT NULL;

-- Results of acts under a repeated-call key.
CREATE TABLE remembered (
    actor   TEXT    NOT NULL,
    key     TEXT    NOT NULL,
    request BLOB    NOT NULL,
    rev     INTEGER,
    ended   INTEGER,
    made    TEXT,
    at      INTEGER NOT NULL,
    PRIMARY KEY (actor, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX remembered_by_age ON remembered (at);
