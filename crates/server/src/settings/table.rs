//! The one table of settings: every name, what its value looks like, its default, and what it is for. Flags, environment
//! variables, file keys, `config check` and the help texts are all made from it, so they cannot disagree.

/// A setting with a fixed name.
#[derive(Debug)]
pub struct Setting {
    /// The key in `portcullis.toml`. `access_ttl` is also `--access-ttl` and `PORTCULLIS_ACCESS_TTL`.
    pub name: &'static str,
    /// What a value looks like.
    pub kind: Kind,
    /// The value when none is given, as it would be written; `None` when it is derived or absent.
    pub default: Option<&'static str>,
    /// What stands in the place of a default that is derived.
    pub otherwise: &'static str,
    /// Whether the value must never be shown. Secrets also come from `PORTCULLIS_…_FILE`.
    pub secret: bool,
    /// One line for people.
    pub help: &'static str,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text; who uses it reads it further.
    Text,
    /// A span with its unit, within these limits in milliseconds.
    Span(i64, i64),
    /// A whole number within these limits.
    Count(u64, u64),
    /// `on` or `off`.
    Switch,
    /// Texts: an array in the file, separated by commas elsewhere.
    List,
    /// One of these words.
    Word(&'static [&'static str]),
}

impl Setting {
    /// `--access-ttl`, without the dashes in front.
    pub fn flag(&self) -> String {
        self.name.replace('_', "-")
    }
    /// `PORTCULLIS_ACCESS_TTL`.
    pub fn env(&self) -> String {
        format!("{ENV_PREFIX}{}", self.name.to_ascii_uppercase())
    }
}

/// What all our environment variables begin with.
pub const ENV_PREFIX: &str = "PORTCULLIS_";

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

const fn text(
    name: &'static str,
    default: Option<&'static str>,
    otherwise: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, kind: Kind::Text, default, otherwise, secret: false, help }
}
const fn secret(name: &'static str, otherwise: &'static str, help: &'static str) -> Setting {
    Setting { name, kind: Kind::Text, default: None, otherwise, secret: true, help }
}
const fn of(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Setting {
    Setting { name, kind, default: Some(default), otherwise: "", secret: false, help }
}
const fn list(name: &'static str, help: &'static str) -> Setting {
    Setting { name, kind: Kind::List, default: None, otherwise: "none", secret: false, help }
}

/// Every setting that this release knows.
pub const SETTINGS: &[Setting] = &[
    text("listen", Some("127.0.0.1:7400"), "", "address and port to serve on"),
    text(
        "issuer",
        None,
        "http://LISTEN (https with tls_cert), when that is a loopback address",
        "public address of this server, https unless loopback; `iss` of every token",
    ),
    text("audience", None, "the issuer", "`aud` of access tokens"),
    // Its password makes it a secret; what is shown of it is the rest.
    secret(
        "database_url",
        "sqlite://DATA_DIR/portcullis.db",
        "the database, sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE",
    ),
    text(
        "data_dir",
        Some("portcullis-data"),
        "",
        "directory for the database, the master key and the admin socket; made with mode 0700",
    ),
    text(
        "high_water_file",
        None,
        "DATA_DIR/high-water.json",
        "says how far the log has come, best on another volume; an older or an empty database is noticed by it",
    ),
    text(
        "audit_head_file",
        None,
        "DATA_DIR/audit-head.json",
        "says how far the audit trail was seen, best on another volume; a trail that was cut or replaced is noticed by it",
    ),
    text(
        "acts_file",
        None,
        "DATA_DIR/acts.jsonl",
        "journal of blocks and deletions, best on another volume: `restore --replay` does them again",
    ),
    secret(
        "master_key",
        "DATA_DIR/master.key, made at first start",
        "32 bytes in base64 that seal the keys in the database; with PostgreSQL it must be given, the same to all nodes",
    ),
    of("access_ttl", Kind::Span(SECOND, HOUR), "5m", "life of an access token, before its jitter of 20%"),
    of(
        "client_access_ttl_max",
        Kind::Span(SECOND, HOUR),
        "5m",
        "the longest `access_ttl_s` that a client may have; log entries are kept for as long, when it is above access_ttl",
    ),
    list("api_key_scopes", "scopes that people may give to their API keys"),
    of(
        "dynamic_registration",
        Kind::Word(&["off", "token", "open"]),
        "off",
        "who may register clients by themselves (RFC 7591): nobody, whoever shows registration_token, or everybody",
    ),
    secret(
        "registration_token",
        "none",
        "initial access token for dynamic_registration = token; at least 32 characters",
    ),
    of("idle_ttl", Kind::Span(SECOND, 3660 * DAY), "30d", "a session ends when it was not used for so long"),
    of(
        "absolute_ttl",
        Kind::Span(SECOND, 3660 * DAY),
        "180d",
        "a session ends so long after sign-in, whatever happens",
    ),
    of("retry_window", Kind::Span(0, HOUR), "10s", "a repeated refresh gets the same successor for so long"),
    of(
        "late_retry",
        Kind::Span(0, 366 * DAY),
        "24h",
        "a predecessor whose successor was never used gets a new one for so long; 0s is strict",
    ),
    of(
        "late_retry_at_home",
        Kind::Span(0, 366 * DAY),
        "14d",
        "the same where the session was last, with nothing that speaks against it; late_retry where only that is set",
    ),
    of("bound", Kind::Span(200, HOUR), "5s", "B: how long a lease of a verifier lasts"),
    of("stream_grace", Kind::Span(0, HOUR), "0s", "how long open streams may outlive a lost lease"),
    of("max_sessions", Kind::Count(0, 1000), "0", "how many sessions an account may have at once; 0 is no limit"),
    of(
        "max_sessions_policy",
        Kind::Word(&["end_oldest", "refuse"]),
        "end_oldest",
        "at max_sessions, a sign-in ends the session that was not used for longest, or is refused",
    ),
    of(
        "step_up_max_age",
        Kind::Span(SECOND, 366 * DAY),
        "1h",
        "how old a sign-in may be for acts that need a fresh one",
    ),
    of(
        "failed_sign_in_step",
        Kind::Span(0, 60 * SECOND),
        "500ms",
        "a refused sign-in is answered at the end of a step of so long, so that its time tells nothing; longer than the slowest \
         imported hash takes; 0s is at once",
    ),
    of("deletion_grace", Kind::Span(0, 366 * DAY), "0s", "how long the deletion of an account can be taken back"),
    of("ended_retention", Kind::Span(0, 3660 * DAY), "30d", "how long sessions are kept after their end"),
    of("event_retention", Kind::Span(0, 36_600 * DAY), "365d", "how long audit records are kept; 0s is for ever"),
    of("address_retention", Kind::Span(0, 3660 * DAY), "90d", "how long sessions and audit records keep addresses"),
    of(
        "unverified_retention",
        Kind::Span(0, 3660 * DAY),
        "7d",
        "with require_verified_email, how long accounts are kept that somebody signed up for and whose address nobody verifies; 0s is \
         for ever",
    ),
    of(
        "registration_retention",
        Kind::Span(0, 3660 * DAY),
        "30d",
        "how long clients are kept that registered themselves and that nobody uses; 0s is for ever",
    ),
    list("allowed_origins", "origins, besides the issuer's, whose pages may call with cookies (also CORS)"),
    list("trusted_proxies", "addresses or networks whose forwarding headers are believed"),
    list(
        "outgoing_private",
        "networks that are not public and may be called all the same, such as 10.0.0.0/8: where applications that run there are \
         told of logouts; `all` is every address",
    ),
    text(
        "outgoing_ca",
        None,
        "only the authorities that browsers trust",
        "PEM file with certificates of private authorities, trusted besides the public ones where applications, other providers \
         and their documents are called by https; read at the start",
    ),
    secret(
        "mail_url",
        "none: no mail is sent",
        "mail server: smtps://USER:PASSWORD@HOST, or smtp://USER:PASSWORD@HOST:587?tls=required",
    ),
    text(
        "mail_from",
        None,
        "must be given with mail_url",
        "who writes mails: an address, or a name with one, such as Portcullis <id@example.org>",
    ),
    text(
        "mail_templates",
        None,
        "the words that come with the program",
        "folder with texts in place of ours, file by file (docs/mail.md); read at the start",
    ),
    text("mail_language", Some("en"), "", "language of mails: en, de, or one that mail_templates has files of"),
    text(
        "ops_listen",
        None,
        "operations are served on LISTEN",
        "address and port for /healthz, /readyz and /metrics alone",
    ),
    text(
        "tls_cert",
        None,
        "no TLS: a proxy speaks it, or LISTEN is loopback",
        "PEM file with the certificate and its chain, to speak TLS on LISTEN; read again when it changes and on SIGHUP",
    ),
    text("tls_key", None, "none", "PEM file with the private key of tls_cert"),
    secret("bootstrap_admin", "none", "email:password of the first administrator, used on an empty database"),
    of("sign_up", Kind::Switch, "on", "whether people may make accounts themselves"),
    of("argon2_memory", Kind::Text, "19MiB", "memory of one password hash (KiB, or with a unit)"),
    of("argon2_passes", Kind::Count(1, 1000), "2", "passes of one password hash"),
    of("argon2_lanes", Kind::Count(1, 64), "1", "lanes of one password hash"),
    Setting {
        name: "hash_threads",
        kind: Kind::Count(1, 256),
        default: None,
        otherwise: "the number of cores, at most 4",
        secret: false,
        help: "how many passwords are hashed at once; memory is bounded by this times argon2_memory",
    },
    of(
        "hash_queue",
        Kind::Count(1, 1_000_000),
        "256",
        "how many sign-ins may wait for a hash in each of two lanes; beyond that the answer is 503",
    ),
    of("key_rotation", Kind::Text, "90d", "signing and MAC keys are replaced after so long; 0 is never"),
    of(
        "token_algorithm",
        Kind::Word(&["ES256", "RS256", "Ed25519"]),
        "ES256",
        "what access tokens are signed with; another one takes over once every verifier knows its key",
    ),
    of("log_format", Kind::Word(&["text", "json"]), "text", "log lines for people or for programs"),
    text(
        "log_level",
        Some("info"),
        "",
        "error, warn, info, debug or trace; or directives such as info,portcullis_app=debug",
    ),
    text(
        "risk_rules",
        Some("built-in"),
        "",
        "rules about suspicious activity: a policy file, built-in, or off; read again when it changes and on SIGHUP",
    ),
    text(
        "geo_file",
        None,
        "no places are known",
        "database of places in MaxMind's format (country, city or ASN); read again when it changes and on SIGHUP",
    ),
    of(
        "risk_max_blocks_per_minute",
        Kind::Count(1, 60_000),
        "30",
        "how many accounts rules may block a minute, all nodes together; beyond that there is an alarm instead",
    ),
    text(
        "breached_passwords_file",
        None,
        "no stolen passwords are known",
        "list of stolen passwords, SHA-1 and sorted by hash, as the downloader of Have I Been Pwned writes it; looked at again when it changes and on SIGHUP",
    ),
    of(
        "refuse_breached_passwords",
        Kind::Switch,
        "on",
        "whether new passwords are refused that are in breached_passwords_file; off: only rules are told, at sign-in",
    ),
    of(
        "require_verified_email",
        Kind::Switch,
        "off",
        "whether who signs in by password must have opened a link that was sent to their address; needs mail_url",
    ),
];

/// The setting of this name.
pub fn by_name(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The known name that a typing error most likely meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let names = SETTINGS.iter().map(|setting| setting.name);
    let (distance, best) = names.map(|known| (edits(&name, known), known)).min()?;
    (distance <= best.len() / 3 + 1).then_some(best)
}

/// How many single characters must be changed, put in or left out (Levenshtein's distance).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let cheapest = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], cheapest);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_all_three_sources() {
        for setting in SETTINGS {
            assert!(setting.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit()));
            assert_eq!(SETTINGS.iter().filter(|other| other.name == setting.name).count(), 1);
            assert!(setting.default.is_some() == setting.otherwise.is_empty(), "{}", setting.name);
        }
        assert_eq!(by_name("access_ttl").unwrap().env(), "PORTCULLIS_ACCESS_TTL");
        assert_eq!(by_name("access_ttl").unwrap().flag(), "access-ttl");
    }

    #[test]
    fn typing_errors_find_their_name() {
        for (typed, meant) in [
            ("acess_ttl", Some("access_ttl")),
            ("access-ttl", Some("access_ttl")),
            ("Listen", Some("listen")),
            ("trusted_proxy", Some("trusted_proxies")),
            ("max_session", Some("max_sessions")),
            ("favourite_colour", None),
        ] {
            assert_eq!(nearest(typed), meant, "{typed}");
        }
    }
}
