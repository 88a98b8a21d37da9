-- By which methods a session's user proved who they are (RFC 8176), separated by spaces; NULL is a password.
ALTER TABLE sessions ADD COLUMN amr TEXT;
