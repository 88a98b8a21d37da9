CREATE INDEX CONCURRENTLY consents_by_client ON consents (client);
