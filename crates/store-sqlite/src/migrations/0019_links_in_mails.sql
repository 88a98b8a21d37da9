-- The last end of everything of an account that spared no session, where a later one did; null is not known, and then that one counts.
ALTER TABLE accounts ADD COLUMN cut_whole INTEGER;
-- Whether nobody has signed in to it yet. Of those from before this release nobody knows: they count as used.
ALTER TABLE accounts ADD COLUMN unused INTEGER NOT NULL DEFAULT 0;
