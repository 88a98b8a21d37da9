-- The browser's session in which a connected app was allowed: whoever signs out there signs out of the application.
ALTER TABLE sessions ADD COLUMN allowed_in BLOB;
CREATE INDEX sessions_allowed_in ON sessions (allowed_in) WHERE allowed_in IS NOT NULL;
