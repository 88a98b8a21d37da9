CREATE UNIQUE INDEX CONCURRENTLY events_by_place ON events (place) WHERE place IS NOT NULL;
