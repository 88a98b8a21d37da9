-- Alone, so that nothing else waits for the building of them: reads go on meanwhile, and what writes grants or tickets waits.
-- Codes under a session, of which only so many may wait; grants that have ended under sessions that go on.
CREATE INDEX tickets_by_session ON tickets (session, kind, expires_at) WHERE session IS NOT NULL;
CREATE INDEX grants_ended ON grants (ended_rev, id) WHERE ended_rev IS NOT NULL;
