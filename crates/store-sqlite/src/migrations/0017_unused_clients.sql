-- What a client has, for those that nobody used. Most grants are the built-in client's, and none is looked for.
CREATE INDEX consents_by_client ON consents (client);
CREATE INDEX grants_by_client ON grants (client) WHERE client <> x'00000000000000000000000000000000';
CREATE INDEX sessions_by_client ON sessions (client) WHERE client IS NOT NULL;
CREATE INDEX tickets_by_client ON tickets (client) WHERE client IS NOT NULL;
