-- Whoever has a session has signed in, whichever way: by another provider, by signing up, by whatever comes. Also where a node of
-- an earlier release inserts it. The account's row is locked by then.
CREATE FUNCTION account_is_used() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts a SET unused = false WHERE a.id = NEW.account AND a.unused;
    RETURN NULL;
END $$;
CREATE TRIGGER accounts_are_used AFTER INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION account_is_used();

UPDATE accounts a SET unused = false WHERE a.unused AND EXISTS (SELECT 1 FROM sessions s WHERE s.account = a.id);
