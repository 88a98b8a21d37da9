//! Settings: found in four places, read once, and afterwards not wrong any more.
//!
//! [`table`] says which names there are, [`sources`] finds their texts, this file reads them into types and checks what one
//! value alone cannot show. All problems are told at once, each with the place that the value came from; a secret's value is
//! in none of them.
pub mod clients;
pub mod sources;
pub mod table;
mod upstream;
mod values;

use self::sources::{Environment, Flags, Found, Gathered, Source};
use self::table::{Kind, SETTINGS, Setting};
use crate::tls;
use ipnet::IpNet;
use portcullis_app::keys::MasterKey;
use portcullis_app::oauth::Configured;
use portcullis_app::{
    Allowed, Authorities, ClientSettings, Hashing, KeySettings, MailOptions, Mailer, PolicySettings, Registration,
    Settings as AppSettings, UpstreamSettings,
};
use portcullis_domain::Rules;
use portcullis_domain::receivers::QueueLimits;
use portcullis_domain::session_limit::{AtLimit, SessionLimit};
use portcullis_wire::jws::Algorithm;
use portcullis_wire::{Millis, SecretString, time};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use values::{Database, address, is_loopback_url};

/// Everything that `serve` depends on, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to serve.
    pub listen: SocketAddr,
    /// The public address, when it was given.
    pub issuer: Option<String>,
    /// `aud`, when it was given.
    pub audience: Option<String>,
    /// The database, when it was given.
    pub database: Option<Database>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Where it is written down how far the log has come, when that was given.
    pub high_water: Option<PathBuf>,
    /// Where it is written down how far the audit trail was seen, when that was given.
    pub audit_head: Option<PathBuf>,
    /// The journal of blocks and deletions, when it is told.
    pub acts: Option<PathBuf>,
    /// The master key, when it was given.
    pub master_key: Option<MasterKey>,
    /// Life of an access token.
    pub access_ttl: Millis,
    /// The longest life that a client's own access tokens may have.
    pub client_access_ttl_max: Millis,
    /// What clients and API keys may.
    pub clients: ClientSettings,
    /// Idle life of a session.
    pub idle_ttl: Millis,
    /// Absolute life of a session.
    pub absolute_ttl: Millis,
    /// The same successor for so long.
    pub retry_window: Millis,
    /// A new successor for so long.
    pub late_retry: Millis,
    /// The same where the session was last; `late_retry` where only that is set.
    pub late_retry_at_home: Millis,
    /// B.
    pub bound: Millis,
    /// Added to B for open streams.
    pub stream_grace: Millis,
    /// Origins besides the issuer's.
    pub allowed_origins: Vec<String>,
    /// Whose forwarding headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// Addresses that may be called besides public ones.
    pub outgoing: Allowed,
    /// Private authorities that are trusted there.
    pub outgoing_ca: Authorities,
    /// The rules of risk and what they ask.
    pub risk: crate::risk::Files,
    /// The list of stolen passwords.
    pub breached: Option<PathBuf>,
    /// What sends mail, when that is set up.
    pub mail: Option<Mailer>,
    /// Other providers that people may sign in with.
    pub upstreams: Vec<UpstreamSettings>,
    /// Where operations are served alone.
    pub ops_listen: Option<SocketAddr>,
    /// The certificate and its key, when TLS is spoken.
    pub tls: Option<tls::Files>,
    /// The first administrator.
    pub bootstrap_admin: Option<(String, SecretString)>,
    /// Whether people may sign up.
    pub sign_up: bool,
    /// Whether addresses must be verified before anybody signs in by password.
    pub require_verified_email: bool,
    /// How passwords are hashed.
    pub hashing: Hashing,
    /// How keys live.
    pub keys: KeySettings,
    /// What accounts may, and how long things are kept.
    pub policy: PolicySettings,
    /// Clients that a start registers, or changes to this.
    pub configured: Vec<Configured>,
    /// Log lines for programs.
    pub log_json: bool,
    /// What is logged.
    pub log_level: String,
    /// What is odd, but no error.
    pub warnings: Vec<String>,
    /// Texts and sources, for `config check`.
    pub shown: Vec<Shown>,
    /// The configuration file that was used.
    pub file: Option<PathBuf>,
}

/// A setting as `config check` shows it.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its name.
    pub name: &'static str,
    /// Its value, masked when it is secret.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// What is wrong with the settings: at least one line, each with its place.
#[derive(Debug)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}
impl std::error::Error for Problems {}

/// Reads one value after the other and keeps what is wrong.
struct Reader {
    found: BTreeMap<&'static str, Found>,
    problems: Vec<String>,
}

impl Reader {
    /// The text of a setting, its default included.
    fn text(&self, setting: &Setting) -> Option<&str> {
        self.found.get(setting.name).map(|found| found.text.expose()).or(setting.default)
    }

    /// The value of a setting, by the function that reads such texts; `None` when there is none or it is wrong.
    fn get<T>(&mut self, name: &'static str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let setting = table::by_name(name)?;
        match read(self.text(setting)?) {
            Ok(value) => Some(value),
            Err(why) => {
                self.wrong(name, &why);
                None
            }
        }
    }

    /// Who sets `late_retry` alone gets that alone, and `0s` is strict whatever else is set.
    fn late_retry_at_home(&mut self, late: Millis) -> Millis {
        let at_home = self.span("late_retry_at_home");
        let alone = self.found.contains_key("late_retry") && !self.found.contains_key("late_retry_at_home");
        if alone || late == 0 { late } else { at_home.max(late) }
    }

    /// Notes what is wrong with a setting, with its value (unless it is secret) and its place.
    fn wrong(&mut self, name: &'static str, why: &str) {
        let secret = table::by_name(name).is_some_and(|setting| setting.secret);
        let problem = match self.found.get(name) {
            Some(found) if secret => format!("{name} {why} (from {})", found.source),
            Some(found) => format!("{name} = {:?}: {why} (from {})", found.text.expose(), found.source),
            None => format!("{name} {why}"),
        };
        self.problems.push(problem);
    }

    fn span(&mut self, name: &'static str) -> Millis {
        let limits = table::by_name(name).map(|setting| setting.kind);
        let read = |text: &str| {
            let span =
                time::parse_span(text).ok_or("a duration needs a number and a unit: 500ms, 90s, 5m, 12h or 30d")?;
            match limits {
                Some(Kind::Span(min, max)) if !(min..=max).contains(&span) => {
                    Err(format!("must lie between {} and {}", time::span(min), time::span(max)))
                }
                _ => Ok(span),
            }
        };
        self.get(name, read).unwrap_or(0)
    }

    fn count(&mut self, name: &'static str) -> Option<u64> {
        let limits = table::by_name(name).map(|setting| setting.kind);
        self.get(name, |text| match (text.parse::<u64>(), limits) {
            (Ok(n), Some(Kind::Count(min, max))) if (min..=max).contains(&n) => Ok(n),
            (_, Some(Kind::Count(min, max))) => Err(format!("must be a whole number between {min} and {max}")),
            _ => Err("must be a whole number".into()),
        })
    }

    fn word(&mut self, name: &'static str) -> String {
        let words = match table::by_name(name).map(|setting| setting.kind) {
            Some(Kind::Word(words)) => words,
            _ => &[],
        };
        let read = |text: &str| match words.contains(&text) {
            true => Ok(text.to_owned()),
            false => Err(format!("must be one of {}", words.join(", "))),
        };
        self.get(name, read).unwrap_or_default()
    }

    fn list<T>(&mut self, name: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let items = |text: &str| text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(read).collect();
        self.get(name, items).unwrap_or_default()
    }
}

impl Settings {
    /// From this process's command line, environment and files.
    pub fn load(flags: &Flags) -> Result<Self, Problems> {
        let cwd = std::env::current_dir().unwrap_or_default();
        Self::read(Gathered::from(flags, &Environment::of_process(), &cwd))
    }

    /// The data directory alone, for commands that look for the admin socket: other settings may be wrong or missing.
    pub fn data_dir_only(flags: &Flags) -> PathBuf {
        let cwd = std::env::current_dir().unwrap_or_default();
        let gathered = Gathered::from(flags, &Environment::of_process(), &cwd);
        let reader = Reader { found: gathered.found, problems: vec![] };
        let text = table::by_name("data_dir").and_then(|setting| reader.text(setting));
        PathBuf::from(text.unwrap_or_default())
    }

    /// Reads what was found.
    pub fn read(gathered: Gathered) -> Result<Self, Problems> {
        let entries = gathered.clients;
        let mut r = Reader { found: gathered.found, problems: gathered.problems };
        let mut warnings = gathered.warnings;
        let listen = r.get("listen", values::address).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let issuer = r.get("issuer", values::issuer);
        if issuer.is_none() && !r.found.contains_key("issuer") && !listen.ip().is_loopback() {
            r.wrong("issuer", "must be set: the public address of this server, such as https://id.example.org");
        }
        let hashing = Hashing {
            memory_kib: r.get("argon2_memory", values::memory_kib).unwrap_or(0),
            passes: r.count("argon2_passes").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            lanes: r.count("argon2_lanes").and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            threads: r.count("hash_threads").and_then(|n| usize::try_from(n).ok()).unwrap_or_else(cores_to_hash_on),
            queue: r.count("hash_queue").and_then(|n| usize::try_from(n).ok()).unwrap_or(0),
        };
        if r.problems.is_empty() && u64::from(hashing.memory_kib) < 8 * u64::from(hashing.lanes) {
            r.wrong("argon2_memory", "must be at least 8 KiB for each of argon2_lanes");
        }
        let (cert, key) = (r.get("tls_cert", values::file), r.get("tls_key", values::file));
        if cert.is_some() != key.is_some() {
            let missing = if cert.is_some() { "tls_key" } else { "tls_cert" };
            r.wrong(missing, "must be set too: TLS needs a certificate and its key");
        }
        let tls = cert.zip(key).map(|(cert, key)| tls::Files { cert, key });
        if tls.is_some() && issuer.as_ref().is_some_and(|issuer| issuer.starts_with("http://")) {
            r.wrong("issuer", "must be https when tls_cert is set");
        }
        let authorities = r.get("outgoing_ca", values::authorities).unwrap_or_default();
        let late_retry = r.span("late_retry");
        let settings = Self {
            listen,
            issuer,
            audience: r.get("audience", values::audience),
            database: r.get("database_url", values::database),
            data_dir: r.get("data_dir", values::directory).unwrap_or_default(),
            high_water: r.get("high_water_file", values::file),
            audit_head: r.get("audit_head_file", values::file),
            acts: r.get("acts_file", values::file),
            master_key: r.get("master_key", |text| {
                MasterKey::parse(&SecretString::new(text)).ok_or_else(|| "must be 32 bytes in base64".to_owned())
            }),
            access_ttl: r.span("access_ttl"),
            client_access_ttl_max: r.span("client_access_ttl_max"),
            clients: client_rules(&mut r),
            configured: configured(&entries, &mut r),
            idle_ttl: r.span("idle_ttl"),
            absolute_ttl: r.span("absolute_ttl"),
            retry_window: r.span("retry_window"),
            late_retry,
            late_retry_at_home: r.late_retry_at_home(late_retry),
            bound: r.span("bound"),
            stream_grace: r.span("stream_grace"),
            allowed_origins: r.list("allowed_origins", values::origin),
            trusted_proxies: r.list("trusted_proxies", values::network),
            upstreams: gathered.upstreams,
            mail: mail(&mut r, &authorities),
            outgoing_ca: authorities,
            risk: crate::risk::Files {
                rules: r.get("risk_rules", values::risk_rules).unwrap_or_default(),
                places: r.get("geo_file", values::file),
            },
            breached: r.get("breached_passwords_file", values::file),
            outgoing: Allowed::networks(r.list("outgoing_private", values::networks).into_iter().flatten()),
            ops_listen: r.get("ops_listen", values::address),
            tls,
            bootstrap_admin: r.get("bootstrap_admin", values::bootstrap_admin),
            sign_up: r.get("sign_up", values::switch).unwrap_or(false),
            require_verified_email: r.get("require_verified_email", values::switch).unwrap_or(false),
            hashing,
            keys: KeySettings {
                rotate_every: r.get("key_rotation", values::rotation).flatten(),
                algorithm: Algorithm::parse(&r.word("token_algorithm")).unwrap_or(Algorithm::Es256),
            },
            policy: PolicySettings {
                session_limit: r.count("max_sessions").and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0).map(
                    |most| {
                        let refuse = r.word("max_sessions_policy") == "refuse";
                        let at_limit = if refuse { AtLimit::Refuse } else { AtLimit::EndOldest };
                        SessionLimit { most, at_limit }
                    },
                ),
                step_up_max_age: r.span("step_up_max_age"),
                failed_sign_in_step: r.span("failed_sign_in_step"),
                deletion_grace: r.span("deletion_grace"),
                ended_retention: r.span("ended_retention"),
                event_retention: Some(r.span("event_retention")).filter(|span| *span > 0),
                address_retention: r.span("address_retention"),
                max_blocks_per_minute: r
                    .count("risk_max_blocks_per_minute")
                    .and_then(|n| u32::try_from(n).ok())
                    .unwrap_or(30),
                refuse_breached: r.get("refuse_breached_passwords", values::switch).unwrap_or(true),
                unverified_retention: Some(r.span("unverified_retention")).filter(|span| *span > 0),
                registration_retention: Some(r.span("registration_retention")).filter(|span| *span > 0),
            },
            log_json: r.word("log_format") == "json",
            log_level: r.get("log_level", values::log_level).unwrap_or_default(),
            shown: SETTINGS.iter().map(|setting| shown(&r, setting)).collect(),
            file: gathered.file,
            warnings: vec![],
        };
        if settings.require_verified_email && settings.mail.is_none() && !r.found.contains_key("mail_url") {
            r.wrong("require_verified_email", "needs mail_url: addresses are verified by a link in a mail");
        }
        if matches!(settings.database, Some(Database::Postgres(_))) && !r.found.contains_key("master_key") {
            r.wrong(
                "master_key",
                "must be set with PostgreSQL, the same for all nodes; `openssl rand -base64 32` makes one",
            );
        }
        if !r.problems.is_empty() {
            return Err(Problems(r.problems));
        }
        warnings.extend(settings.odd());
        let mut settings = Self { warnings, ..settings };
        settings.show_derived();
        Ok(settings)
    }

    /// What is allowed, but hardly meant.
    fn odd(&self) -> Vec<String> {
        let mut odd = Vec::new();
        if self.hashing.is_weak() {
            let Hashing { memory_kib, passes, .. } = self.hashing;
            odd.push(format!(
                "WEAK PASSWORD HASHING: argon2_memory = {memory_kib} KiB with argon2_passes = {passes} is below OWASP's \
                 minimum; passwords of a stolen database could be guessed quickly. For tests only"
            ));
        }
        if self.retry_window > self.late_retry && self.late_retry != 0 {
            odd.push("late_retry is shorter than retry_window and so has no effect".into());
        }
        if self.late_retry == 0 && self.is_set("late_retry_at_home") {
            odd.push("late_retry = 0s is strict, so late_retry_at_home has no effect".into());
        }
        if self.idle_ttl > self.absolute_ttl {
            odd.push("idle_ttl is longer than absolute_ttl and so has no effect".into());
        }
        if self.tls.is_none() && !self.listen.ip().is_loopback() && self.trusted_proxies.is_empty() {
            odd.push(format!(
                "PASSWORDS AND TOKENS IN THE CLEAR: listen = {} is reachable from other machines, and neither tls_cert nor \
                 trusted_proxies is set; set tls_cert and tls_key, or put a proxy that speaks TLS in front and name it",
                self.listen
            ));
        }
        if self.mail.as_ref().is_some_and(Mailer::is_in_the_clear) {
            odd.push(
                "MAIL IN THE CLEAR: mail_url is smtp:// without tls=required, so whoever listens on the way reads links that open \
                 accounts"
                    .into(),
            );
        }
        if self.trusted_proxies.iter().any(|net| net.prefix_len() == 0) {
            odd.push("trusted_proxies holds every address: anybody can claim to call from anywhere".into());
        }
        odd
    }

    /// Whether a setting was given, and is not the default.
    fn is_set(&self, name: &str) -> bool {
        self.shown.iter().any(|shown| shown.name == name && shown.source != Source::Default)
    }

    /// Puts what was derived in the place of the words that explain it.
    fn show_derived(&mut self) {
        let issuer = self.issuer_at(self.listen);
        let derived = [
            ("audience", self.audience.clone().unwrap_or_else(|| issuer.clone())),
            ("issuer", issuer),
            ("database_url", format!("sqlite://{}", self.database_name())),
            ("hash_threads", self.hashing.threads.to_string()),
            ("late_retry_at_home", time::span(self.late_retry_at_home)),
        ];
        for shown in self.shown.iter_mut().filter(|shown| shown.source == Source::Default) {
            if let Some((_, value)) = derived.iter().find(|(name, _)| *name == shown.name) {
                shown.value.clone_from(value);
            }
        }
    }

    /// `iss`, given the address that is really listened on.
    pub fn issuer_at(&self, bound: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.issuer.clone().unwrap_or_else(|| format!("{scheme}://{bound}"))
    }

    /// Where it is written down how far the log has come.
    pub fn high_water_path(&self) -> PathBuf {
        self.high_water.clone().unwrap_or_else(|| self.data_dir.join("high-water.json"))
    }

    /// Where it is written down how far the audit trail was seen.
    pub fn audit_head_path(&self) -> PathBuf {
        self.audit_head.clone().unwrap_or_else(|| self.data_dir.join("audit-head.json"))
    }

    /// Where blocks and deletions are written down.
    pub fn acts_path(&self) -> PathBuf {
        self.acts.clone().unwrap_or_else(|| self.data_dir.join("acts.jsonl"))
    }

    /// Which database is served.
    pub fn database(&self) -> Database {
        self.database.clone().unwrap_or_else(|| Database::Sqlite(self.data_dir.join("portcullis.db")))
    }

    /// The database for people: the password of a URL is not shown.
    pub fn database_name(&self) -> String {
        match self.database() {
            Database::Sqlite(path) => path.display().to_string(),
            Database::Postgres(url) => values::masked_url(url.expose()),
        }
    }

    /// What the operations depend on, given the address that is really listened on.
    pub fn for_app(&self, bound: SocketAddr) -> AppSettings {
        let issuer = self.issuer_at(bound);
        AppSettings {
            rules: Rules {
                audience: self.audience.clone().unwrap_or_else(|| issuer.clone()),
                issuer,
                access_ttl: self.access_ttl,
                longest_ttl: self.access_ttl.max(self.client_access_ttl_max),
                idle_ttl: self.idle_ttl,
                absolute_ttl: self.absolute_ttl,
                retry_window: self.retry_window,
                late_retry: self.late_retry,
                late_retry_at_home: self.late_retry_at_home,
                require_verified_email: self.require_verified_email,
            },
            bound: self.bound,
            stream_grace: self.stream_grace,
            sign_up: self.sign_up,
            hashing: self.hashing,
            keys: self.keys,
            outgoing: self.outgoing.clone().into(),
            outgoing_ca: self.outgoing_ca.clone(),
            mail: self.mail.clone(),
            queues: QueueLimits::default(),
            upstreams: self.upstreams.clone(),
            policy: self.policy,
            clients: self.clients.clone(),
            audit_head_file: Some(self.audit_head_path()),
        }
    }

    /// The admin socket of a data directory.
    pub fn admin_socket(data_dir: &Path) -> PathBuf {
        data_dir.join("admin.sock")
    }
}

/// What sends mail. Templates are read and tried here, so that a mistake is told with its file and line.
fn mail(r: &mut Reader, authorities: &Authorities) -> Option<Mailer> {
    let text = |r: &Reader, name| table::by_name(name).and_then(|setting| r.text(setting)).map(str::to_owned);
    let Some(url) = text(r, "mail_url") else {
        for name in ["mail_from", "mail_templates", "mail_language"] {
            if r.found.contains_key(name) {
                r.wrong(name, "has no effect without mail_url");
            }
        }
        return None;
    };
    let Some(from) = text(r, "mail_from") else {
        r.wrong("mail_from", "must be set too: mails need somebody who writes them");
        return None;
    };
    let (templates, language) = (text(r, "mail_templates").map(PathBuf::from), text(r, "mail_language"));
    let made = Mailer::new(&MailOptions {
        url: &url,
        from: &from,
        templates: templates.as_deref(),
        language: language.as_deref().unwrap_or("en"),
        authorities: &authorities.to_der(),
    });
    made.map_err(|(setting, why)| r.wrong(setting, &why)).ok()
}

/// What clients and API keys may.
fn client_rules(r: &mut Reader) -> ClientSettings {
    let token = r.get("registration_token", values::registration_token);
    let registration = match (r.word("dynamic_registration").as_str(), token) {
        ("open", _) => Registration::Open,
        ("token", Some(token)) => Registration::ByToken(token),
        ("token", None) => {
            if !r.found.contains_key("registration_token") {
                r.wrong("registration_token", "must be set too, when dynamic_registration is token");
            }
            Registration::Off
        }
        _ => Registration::Off,
    };
    ClientSettings {
        api_key_scopes: r.list("api_key_scopes", values::key_scope),
        registration,
        ..ClientSettings::default()
    }
}

/// The clients of the file. What is too long for them depends on two settings.
fn configured(entries: &[clients::Entry], r: &mut Reader) -> Vec<Configured> {
    if entries.is_empty() {
        return vec![];
    }
    let longest = r.span("access_ttl").max(r.span("client_access_ttl_max"));
    clients::read(entries, u32::try_from(longest / 1000).unwrap_or(u32::MAX), &mut r.problems)
}

/// All settings as JSON, secrets masked, for programs.
pub fn to_json(settings: &Settings) -> serde_json::Value {
    let row = |s: &Shown| (s.name.to_owned(), json!({ "value": s.value, "source": s.source.to_string() }));
    let all: serde_json::Map<_, _> = settings.shown.iter().map(row).collect();
    json!({ "ok": true, "file": settings.file, "settings": all, "warnings": settings.warnings })
}

fn shown(reader: &Reader, setting: &Setting) -> Shown {
    let found = reader.found.get(setting.name);
    let value = match found {
        Some(found) if setting.name == "database_url" => values::masked_url(found.text.expose()),
        Some(_) if setting.secret => "(secret)".into(),
        Some(found) => found.text.expose().to_owned(),
        None => setting.default.map_or_else(|| format!("({})", setting.otherwise), str::to_owned),
    };
    Shown { name: setting.name, value, source: found.map_or(Source::Default, |found| found.source.clone()) }
}

/// One hash keeps one core busy; more than four at once would take the memory that the rest needs.
fn cores_to_hash_on() -> usize {
    std::thread::available_parallelism().map_or(2, |n| n.get().min(4))
}

#[cfg(test)]
mod tests;
