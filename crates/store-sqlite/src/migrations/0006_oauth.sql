-- No CHECK on large tables: to add one reads them whole.
-- Whose session it is: a connected app's and a service's is their client's own, a sign-in on a device is the built-in client's.
ALTER TABLE sessions ADD COLUMN client BLOB;

-- What access tokens are for, the key that they are bound to, and what got them. A refresh changes none of it.
ALTER TABLE grants ADD COLUMN audience TEXT;
ALTER TABLE grants ADD COLUMN sender BLOB;
ALTER TABLE grants ADD COLUMN agent TEXT;

ALTER TABLE clients ADD COLUMN old_secret BLOB;
ALTER TABLE clients ADD COLUMN old_secret_until INTEGER;
-- What it registered, as JSON. What a refresh asks of that stands beside it, so that no refresh reads JSON.
ALTER TABLE clients ADD COLUMN profile TEXT NOT NULL DEFAULT '{}';
ALTER TABLE clients ADD COLUMN access_ttl INTEGER;
ALTER TABLE clients ADD COLUMN version INTEGER NOT NULL DEFAULT 1;

-- What accounts allowed clients; withdrawn ones stay, for what was begun under an earlier generation is dead.
CREATE TABLE consents (
    account    BLOB    NOT NULL CHECK (length(account) = 16),
    client     BLOB    NOT NULL CHECK (length(client) = 16),
    scope      TEXT    NOT NULL,
    granted_at INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (account, client)
) STRICT, WITHOUT ROWID;

-- What can be used once, by the digest of its secret. The body is the business of its kind.
CREATE TABLE tickets (
    id         BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 32),
    kind       TEXT    NOT NULL,
    account    BLOB,
    session    BLOB,
    client     BLOB,
    born       INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    body       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    used_at    INTEGER,
    used_grant BLOB
) STRICT, WITHOUT ROWID;
CREATE INDEX tickets_by_age ON tickets (expires_at, id);
-- Those of an account that is deleted.
CREATE INDEX tickets_by_account ON tickets (account) WHERE account IS NOT NULL;
