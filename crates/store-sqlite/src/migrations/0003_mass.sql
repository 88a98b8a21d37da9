-- Revocations by filter. While one is not finished its rule stands: every way in asks it.
CREATE TABLE jobs (
    id             BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- The entry that made the rule: what was born below it and is matched is dead.
    rev            INTEGER NOT NULL,
    -- Lists of ids as JSON; empty: any.
    accounts       TEXT    NOT NULL,
    clients        TEXT    NOT NULL,
    created_before INTEGER,
    network        TEXT,
    except_id      BLOB,
    now            INTEGER NOT NULL,
    actor          TEXT    NOT NULL,
    reason         TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    finished_at    INTEGER,
    -- How far it has come: the last session looked at, by id.
    cursor         BLOB,
    scanned        INTEGER NOT NULL,
    ended          INTEGER NOT NULL,
    entries        INTEGER NOT NULL,
    silent         INTEGER NOT NULL,
    last           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX jobs_running ON jobs (rev) WHERE finished_at IS NULL;

-- How many rules stand: nearly always none, and then nobody looks for them.
ALTER TABLE meta ADD COLUMN standing INTEGER NOT NULL DEFAULT 0;
-- The newest rule that was worked off and taken away: nothing born below it is inserted any more.
ALTER TABLE meta ADD COLUMN worked_off INTEGER NOT NULL DEFAULT 0;
