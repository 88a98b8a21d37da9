-- Who of another provider is which account.
CREATE TABLE links (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    issuer     TEXT    NOT NULL,
    subject    TEXT    NOT NULL,
    account    BLOB    NOT NULL CHECK (length(account) = 16),
    upstream   TEXT    NOT NULL,
    label      TEXT,
    created_at INTEGER NOT NULL,
    used_at    INTEGER NOT NULL,
    -- When the other provider last said that this person signed out.
    out_at     INTEGER,
    UNIQUE (issuer, subject)
) STRICT, WITHOUT ROWID;
CREATE INDEX links_by_account ON links (account, id);

-- From which session of which person at another provider a session came.
CREATE TABLE origins (
    session BLOB NOT NULL PRIMARY KEY CHECK (length(session) = 16),
    issuer  TEXT NOT NULL,
    subject TEXT NOT NULL,
    sid     TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX origins_by_subject ON origins (issuer, subject, session);
CREATE INDEX origins_by_sid ON origins (issuer, sid, session) WHERE sid IS NOT NULL;

-- They go with what they are about.
CREATE TRIGGER origins_go_with_sessions AFTER DELETE ON sessions BEGIN
    DELETE FROM origins WHERE session = OLD.id;
END;
CREATE TRIGGER links_go_with_accounts AFTER UPDATE OF status ON accounts WHEN NEW.status = 'deleted' BEGIN
    DELETE FROM links WHERE account = NEW.id;
    DELETE FROM origins WHERE session IN (SELECT s.id FROM sessions s WHERE s.account = NEW.id);
END;
