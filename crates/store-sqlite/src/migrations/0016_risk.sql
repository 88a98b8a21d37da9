-- What is remembered of an account for the rules of risk: a text that only they read, and how often it was written.
CREATE TABLE risk_memories (
    account BLOB    NOT NULL PRIMARY KEY CHECK (length(account) = 16),
    memory  TEXT    NOT NULL,
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- From which network a grant was made or last refreshed, by a MAC; NULL is not known.
ALTER TABLE grants ADD COLUMN network BLOB;
