-- What has become due: blocks that lift themselves, and accounts ('deleting') whose grace period has passed.
CREATE INDEX accounts_by_due ON accounts (status_until, id) WHERE status_until IS NOT NULL;

-- Audit records that still hold an address, by age.
CREATE INDEX events_with_address ON events (at, seq) WHERE ip IS NOT NULL;
