-- Who follows the trail of audit records (domain::follow), and the last place that they were told of.
CREATE TABLE followers (
    name  TEXT    PRIMARY KEY,
    place INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Webhooks (domain::webhook); their secrets are sealed under the master key.
CREATE TABLE webhooks (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    url          TEXT    NOT NULL,
    description  TEXT,
    -- A list of texts in JSON.
    events       TEXT    NOT NULL,
    enabled      INTEGER NOT NULL,
    disabled_why TEXT,
    secret       BLOB    NOT NULL,
    old_secret   BLOB,
    old_until    INTEGER,
    created_at   INTEGER NOT NULL,
    version      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
