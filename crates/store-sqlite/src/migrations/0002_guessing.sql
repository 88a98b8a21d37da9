-- How much of each budget for guesses is used up: `debt` milliseconds until it is full again, as of `seen_at`. Keys are MACs.
-- A budget that is full needs no row.
CREATE TABLE budgets (
    key     BLOB    NOT NULL PRIMARY KEY CHECK (length(key) = 16),
    debt    INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    full_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX budgets_by_fullness ON budgets (full_at, key);

-- From which networks an account signed in, by MACs of address and prefix.
CREATE TABLE known_networks (
    account BLOB    NOT NULL CHECK (length(account) = 16),
    network BLOB    NOT NULL CHECK (length(network) = 16),
    at      INTEGER NOT NULL,
    PRIMARY KEY (account, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX known_networks_by_age ON known_networks (at, account, network);
