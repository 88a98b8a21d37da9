-- Whoever has a session has signed in, whichever way.
UPDATE accounts SET unused = 0 WHERE unused <> 0 AND EXISTS (SELECT 1 FROM sessions s WHERE s.account = accounts.id);
