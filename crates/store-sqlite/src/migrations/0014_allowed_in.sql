-- The browser's session in which a connected app was allowed: whoever signs out there signs out of the application.
ALTER TABLE sessions ADD COLUMN allowed_in BLOB;
