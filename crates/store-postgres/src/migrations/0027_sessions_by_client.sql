CREATE INDEX CONCURRENTLY sessions_by_client ON sessions (client) WHERE client IS NOT NULL;
