-- Since when an account's address is known to be its owner's; null is not known.
ALTER TABLE accounts ADD COLUMN email_verified_at INTEGER;
