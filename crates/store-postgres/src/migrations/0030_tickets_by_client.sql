CREATE INDEX CONCURRENTLY tickets_by_client ON tickets (client) WHERE client IS NOT NULL;
