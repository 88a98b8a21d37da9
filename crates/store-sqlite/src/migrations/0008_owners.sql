-- Whose grants and tokens the entries of the log end: of one account only so many stand there (kernel::entry_for).
ALTER TABLE log ADD COLUMN owner BLOB;
CREATE INDEX log_by_owner ON log (owner) WHERE owner IS NOT NULL;
