-- The run of the server that wrote last: a mark elsewhere names it, too, and tells a database that another server has written to.
ALTER TABLE meta ADD COLUMN run BLOB CHECK (length(run) = 16);
