CREATE INDEX CONCURRENTLY sessions_allowed_in ON sessions (allowed_in) WHERE allowed_in IS NOT NULL;
