-- The chain over audit records (domain::audit): a record's place and link, and the commitments to what may be erased of it, whose
-- salts go with the values.
ALTER TABLE events ADD COLUMN place INTEGER;
ALTER TABLE events ADD COLUMN link BLOB;
ALTER TABLE events ADD COLUMN ip_seal BLOB;
ALTER TABLE events ADD COLUMN ip_salt BLOB;
ALTER TABLE events ADD COLUMN reason_seal BLOB;
ALTER TABLE events ADD COLUMN reason_salt BLOB;
CREATE UNIQUE INDEX events_by_place ON events (place) WHERE place IS NOT NULL;
CREATE INDEX events_unsealed ON events (seq) WHERE place IS NULL;

-- Where it begins and ends, and its key, sealed under the master key. No row before it was begun.
CREATE TABLE audit_chain (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    key        BLOB    NOT NULL,
    start      INTEGER NOT NULL,
    start_link BLOB    NOT NULL,
    start_mac  BLOB    NOT NULL,
    head       INTEGER NOT NULL,
    head_link  BLOB    NOT NULL
) STRICT;

-- Tombstones whose audit records from before they became one still have what can be erased of them: which were looked at, and
-- which is the last one.
CREATE TABLE erasures (
    account BLOB    PRIMARY KEY,
    after   INTEGER NOT NULL,
    last    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
