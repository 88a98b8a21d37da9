CREATE INDEX CONCURRENTLY events_unsealed ON events (seq) WHERE place IS NULL;
