-- Ids are 16 bytes, big-endian; times are milliseconds since 1970 by the database's clock; a rev is a position in the log.
-- A cut is the rev of the last end of a scope and the one session that it spares; `born` is compared with it. Texts that
-- people write are kept escaped: PostgreSQL's texts hold no NUL (cells.rs). Everything that is ordered by text is ordered by bytes.

-- The counter's row: where the log stands, and what stands beside it.
CREATE TABLE meta (
    one             smallint PRIMARY KEY CHECK (one = 1),
    log             bytea    NOT NULL CHECK (octet_length(log) = 16),
    epoch           bigint   NOT NULL,
    head            bigint   NOT NULL,
    chain           bytea    NOT NULL CHECK (octet_length(chain) = 32),
    horizon         bigint   NOT NULL,
    floor           bigint   NOT NULL,
    cut_rev         bigint   NOT NULL,
    cut_except      bytea,
    -- The highest rev whose entry was forgotten; what is forgotten is a prefix of the log.
    forgotten       bigint   NOT NULL,
    bound_now_ms    bigint,
    bound_next_ms   bigint,
    bound_next_from bigint,
    -- How many rules of revocations by filter stand: nearly always none, and then nobody looks for them.
    standing        bigint   NOT NULL,
    -- The newest rule that was worked off and taken away: nothing born below it is inserted any more.
    worked_off      bigint   NOT NULL
) WITH (fillfactor = 20);

-- The revocation log, as far as it is not forgotten.
CREATE TABLE log (
    rev       bigint PRIMARY KEY,
    verb      text   NOT NULL,
    scope     text   NOT NULL,
    target    text   NOT NULL,
    except_id bytea,
    spread_ms bigint,
    until     bigint NOT NULL
);

CREATE TABLE accounts (
    id               bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    email            text   COLLATE "C",
    name             text,
    password_hash    text,
    password_version bigint NOT NULL,
    roles            text[] NOT NULL,
    -- 'active', 'blocked' (reason, actor, at, until), 'deleting' (at, until, rev) or 'deleted' (at, rev).
    status           text   NOT NULL,
    status_reason    text,
    status_actor     text,
    status_at        bigint,
    status_until     bigint,
    status_rev       bigint,
    created_at       bigint NOT NULL,
    cut_rev          bigint NOT NULL,
    cut_except       bytea,
    version          bigint NOT NULL
);
CREATE UNIQUE INDEX accounts_by_email ON accounts (email) WHERE email IS NOT NULL;
CREATE INDEX accounts_by_due ON accounts (status_until, id) WHERE status_until IS NOT NULL;

CREATE TABLE sessions (
    id                  bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    account             bytea  NOT NULL,
    kind                text   NOT NULL,
    device_name         text   NOT NULL,
    agent               text   NOT NULL,
    ip                  text,
    -- The same address for rules about networks; an IPv4 address in IPv6 form is the IPv4 address.
    net                 inet,
    created_at          bigint NOT NULL,
    auth_time           bigint NOT NULL,
    last_seen_at        bigint NOT NULL,
    absolute_expires_at bigint NOT NULL,
    born                bigint NOT NULL,
    epoch               bigint NOT NULL,
    cookie              bytea,
    ended_rev           bigint,
    ended_reason        text,
    ended_at            bigint
);
-- Lists, and the exact count of what an end of the account ends.
CREATE INDEX sessions_by_account ON sessions (account, created_at) WHERE ended_rev IS NULL;
CREATE INDEX sessions_ended ON sessions (account, ended_rev) WHERE ended_rev IS NOT NULL;

-- A refresh updates one row of this table in place (HOT: no index covers a column that it changes) and nothing else.
CREATE TABLE grants (
    id          bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    session     bytea  NOT NULL,
    client      bytea  NOT NULL,
    scope       text   NOT NULL,
    born        bigint NOT NULL,
    secret      bytea  NOT NULL CHECK (octet_length(secret) = 32),
    mac_key     bigint NOT NULL,
    epoch       bigint NOT NULL,
    counter     bigint NOT NULL,
    made_at     bigint NOT NULL,
    handed_at   bigint NOT NULL,
    handouts    bigint NOT NULL,
    predecessor bigint,
    ended_rev   bigint
) WITH (fillfactor = 70);
CREATE INDEX grants_by_session ON grants (session);

CREATE TABLE clients (
    id         bytea   PRIMARY KEY CHECK (octet_length(id) = 16),
    name       text    NOT NULL,
    kind       text    NOT NULL,
    secret     bytea,
    disabled   boolean NOT NULL,
    created_at bigint  NOT NULL,
    cut_rev    bigint  NOT NULL,
    cut_except bytea
);

CREATE TABLE instances (
    id         bytea  PRIMARY KEY CHECK (octet_length(id) = 16),
    client     bytea  NOT NULL,
    name       text   NOT NULL,
    policy     text   NOT NULL,
    bound_ms   bigint NOT NULL,
    secret     bytea  NOT NULL,
    created_at bigint NOT NULL
);

CREATE TABLE keys (
    id          bigint PRIMARY KEY,
    purpose     text   NOT NULL,
    public_jwk  text   NOT NULL,
    sealed      bytea  NOT NULL,
    created_at  bigint NOT NULL,
    active_from bigint,
    retired_at  bigint,
    dead        bigint
);

-- Audit records. Those of acts that wrote an entry are in the order of their commits.
CREATE TABLE events (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id      bytea  NOT NULL UNIQUE CHECK (octet_length(id) = 16),
    kind    text   NOT NULL,
    actor   text   NOT NULL,
    account bytea,
    session bytea,
    client  bytea,
    ip      text,
    reason  text,
    at      bigint NOT NULL,
    rev     bigint,
    ended   bigint
);
CREATE INDEX events_by_account ON events (account, seq) WHERE account IS NOT NULL;
CREATE INDEX events_by_rev ON events (rev, seq) WHERE rev IS NOT NULL;
CREATE INDEX events_with_address ON events (at, seq) WHERE ip IS NOT NULL;

-- Results of acts under a repeated-call key.
CREATE TABLE remembered (
    actor   text   COLLATE "C" NOT NULL,
    key     text   COLLATE "C" NOT NULL,
    request bytea  NOT NULL,
    rev     bigint,
    ended   bigint,
    made    text,
    at      bigint NOT NULL,
    PRIMARY KEY (actor, key)
);
CREATE INDEX remembered_by_age ON remembered (at);

-- How much of each budget for guesses is used up: `debt` milliseconds until it is full again, as of `seen_at`. Keys are MACs.
-- A budget that is full needs no row.
CREATE TABLE budgets (
    key     bytea  PRIMARY KEY CHECK (octet_length(key) = 16),
    debt    bigint NOT NULL,
    seen_at bigint NOT NULL,
    full_at bigint NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX budgets_by_fullness ON budgets (full_at, key);

-- From which networks an account signed in, by MACs of address and prefix.
CREATE TABLE known_networks (
    account bytea  NOT NULL CHECK (octet_length(account) = 16),
    network bytea  NOT NULL CHECK (octet_length(network) = 16),
    at      bigint NOT NULL,
    PRIMARY KEY (account, network)
);
CREATE INDEX known_networks_by_age ON known_networks (at, account, network);

-- Revocations by filter. While one is not finished its rule stands: every way in asks it.
CREATE TABLE jobs (
    id             bytea   PRIMARY KEY CHECK (octet_length(id) = 16),
    -- The entry that made the rule: what was born below it and is matched is dead.
    rev            bigint  NOT NULL,
    -- Lists of ids as JSON; empty: any.
    accounts       text    NOT NULL,
    clients        text    NOT NULL,
    -- The same for the rule: accounts as ids, and whether sessions are its clients' at all.
    account_ids    bytea[] NOT NULL,
    of_sessions    boolean NOT NULL,
    created_before bigint,
    network        text,
    except_id      bytea,
    now            boolean NOT NULL,
    actor          text    NOT NULL,
    reason         text    NOT NULL,
    created_at     bigint  NOT NULL,
    finished_at    bigint,
    -- How far it has come: the last session looked at, by id.
    cursor         bytea,
    scanned        bigint  NOT NULL,
    ended          bigint  NOT NULL,
    entries        bigint  NOT NULL,
    silent         boolean NOT NULL,
    last           bigint  NOT NULL
);
CREATE INDEX jobs_running ON jobs (rev) WHERE finished_at IS NULL;
