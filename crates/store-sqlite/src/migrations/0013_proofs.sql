-- The proof that a grant was given for (domain::proof), with the methods as sessions have them; NULL is that of its session.
ALTER TABLE grants ADD COLUMN auth_time INTEGER;
ALTER TABLE grants ADD COLUMN amr TEXT;

-- By which methods a session's user had proved who they are, as far as its cookie before is concerned; NULL is not known.
ALTER TABLE sessions ADD COLUMN old_amr TEXT;
