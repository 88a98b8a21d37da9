-- The nodes that are at work, each with what it says to the others; the store does not read that.
CREATE TABLE nodes (
    id   bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    beat bigint NOT NULL,
    body text   NOT NULL
) WITH (fillfactor = 50);
