-- The cookie of a browser's session before its last proof, as long as it is still taken (domain::page_cookie).
ALTER TABLE sessions ADD COLUMN old_cookie BLOB;
ALTER TABLE sessions ADD COLUMN old_auth_time INTEGER;
ALTER TABLE sessions ADD COLUMN old_until INTEGER;

-- Codes under a session, of which only so many may wait; grants that have ended under sessions that go on.
CREATE INDEX tickets_by_session ON tickets (session, kind, expires_at) WHERE session IS NOT NULL;
CREATE INDEX grants_ended ON grants (ended_rev, id) WHERE ended_rev IS NOT NULL;
