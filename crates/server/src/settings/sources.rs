//! Where values come from: flag before environment before file before default. This file only finds the texts and says
//! from where; what they mean is read in [`super`].
use super::clients;
use super::table::{self, ENV_PREFIX, Kind, SETTINGS, Setting};
use super::upstream;
use clap::{Arg, ArgAction, ArgMatches, Command};
use portcullis_app::UpstreamSettings;
use portcullis_wire::SecretString;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// The name that is looked for in the working directory and in the data directory.
pub const FILE_NAME: &str = "portcullis.toml";

/// Where a value was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag(String),
    /// An environment variable.
    Env(String),
    /// A file that an environment variable names.
    EnvFile(String, PathBuf),
    /// A line of the configuration file.
    File(PathBuf, usize),
    /// Nobody gave it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Env(name) => f.write_str(name),
            Self::EnvFile(name, path) => write!(f, "{name} ({})", path.display()),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A text and where it was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The value as text; elements of lists are separated by commas. Redacted in debug output, whatever it is.
    pub text: SecretString,
    /// From where.
    pub source: Source,
}

/// What the command line gave.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The settings given as flags, by name.
    pub given: BTreeMap<&'static str, SecretString>,
}

impl clap::Args for Flags {
    fn augment_args(cmd: Command) -> Command {
        let config = Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf));
        let config =
            config.help(format!("configuration file [default: ./{FILE_NAME} or DATA_DIR/{FILE_NAME}, if present]"));
        SETTINGS.iter().fold(cmd.arg(config), |cmd, setting| cmd.arg(flag(setting)))
    }
    fn augment_args_for_update(cmd: Command) -> Command {
        Self::augment_args(cmd)
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let default = setting.default.unwrap_or(setting.otherwise);
    let arg = Arg::new(setting.name).long(setting.flag()).help(format!("{} [default: {default}]", setting.help));
    let arg = arg.help_heading("Settings").hide_short_help(true);
    match setting.kind {
        Kind::Span(..) => arg.value_name("SPAN"),
        Kind::Count(..) => arg.value_name("N"),
        Kind::Switch => arg.value_name("on|off"),
        Kind::Word(_) => arg.value_name("WORD"),
        Kind::List => arg.value_name("LIST").action(ArgAction::Append),
        Kind::Text => arg.value_name("VALUE"),
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self { config: matches.get_one("config").cloned(), given: BTreeMap::new() };
        for setting in SETTINGS {
            if let Some(values) = matches.get_many::<String>(setting.name) {
                let text = values.cloned().collect::<Vec<_>>().join(",");
                flags.given.insert(setting.name, SecretString::new(text));
            }
        }
        Ok(flags)
    }
    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The environment variables that begin with our prefix.
#[derive(Debug, Clone, Default)]
pub struct Environment(pub BTreeMap<String, SecretString>);

impl Environment {
    /// Those of this process. A value that is no text is left out with the rest of the world's.
    pub fn of_process() -> Self {
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            name.starts_with(ENV_PREFIX).then(|| (name, SecretString::new(value)))
        });
        Self(ours.collect())
    }

    /// A variable's text; an empty one counts as not given, as orchestrators write it.
    pub fn get(&self, name: &str) -> Option<&SecretString> {
        self.0.get(name).filter(|value| !value.expose().is_empty())
    }

    /// A secret from `NAME` or from the file that `NAME_FILE` names.
    pub fn secret(&self, name: &str) -> Result<Option<Found>, String> {
        let file = format!("{name}_FILE");
        match (self.get(name), self.get(&file)) {
            (Some(_), Some(_)) => Err(format!("{name} and {file} are both set; give one of them")),
            (Some(text), None) => Ok(Some(Found { text: text.clone(), source: Source::Env(name.into()) })),
            (None, None) => Ok(None),
            (None, Some(path)) => {
                let path = PathBuf::from(path.expose());
                match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        let text = SecretString::new(text.trim_end_matches(['\r', '\n']));
                        Ok(Some(Found { text, source: Source::EnvFile(file, path) }))
                    }
                    Err(error) => Err(format!("{file}: {} cannot be read: {error}", path.display())),
                }
            }
        }
    }

    /// Our prefix, but no name of ours. Only worth a warning: orchestrators put names of their own beside ours
    /// (`PORTCULLIS_SERVICE_HOST`, `PORTCULLIS_PORT_7400_TCP`, for a service called portcullis).
    fn strangers(&self) -> impl Iterator<Item = &str> {
        const OTHERS: [&str; 4] = ["CONFIG", "SERVER", "TOKEN", "CLIENT_SECRET"];
        self.0.keys().map(String::as_str).filter(|name| {
            let rest = name.strip_prefix(ENV_PREFIX).unwrap_or(name);
            let plain = rest.strip_suffix("_FILE").unwrap_or(rest);
            let ours =
                |setting: &Setting| plain.eq_ignore_ascii_case(setting.name) && (setting.secret || plain == rest);
            let orchestrators = rest == "PORT" || rest.starts_with("PORT_") || rest.starts_with("SERVICE_");
            !SETTINGS.iter().any(ours) && !OTHERS.contains(&plain) && !orchestrators
        })
    }
}

/// Everything that was found, before anything was read.
#[derive(Debug, Default)]
pub struct Gathered {
    /// By name; what nobody gave is not there.
    pub found: BTreeMap<&'static str, Found>,
    /// The `[[clients]]` of the configuration file.
    pub clients: Vec<clients::Entry>,
    /// The configuration file that was used.
    pub file: Option<PathBuf>,
    /// Other providers that people may sign in with; only the file has them.
    pub upstreams: Vec<UpstreamSettings>,
    /// What is wrong, in words with its place.
    pub problems: Vec<String>,
    /// What is odd, but no error.
    pub warnings: Vec<String>,
}

impl Gathered {
    /// From all sources. `cwd`: where `./portcullis.toml` is looked for.
    pub fn from(flags: &Flags, env: &Environment, cwd: &Path) -> Self {
        let mut all = Self::default();
        let mut outer = BTreeMap::new(); // flags and environment
        for setting in SETTINGS {
            if let Some(text) = flags.given.get(setting.name) {
                let source = Source::Flag(setting.flag());
                outer.insert(setting.name, Found { text: text.clone(), source });
                continue;
            }
            let name = setting.env();
            let found = if setting.secret {
                env.secret(&name)
            } else {
                Ok(env.get(&name).map(|text| Found { text: text.clone(), source: Source::Env(name) }))
            };
            match found {
                Ok(Some(found)) => drop(outer.insert(setting.name, found)),
                Ok(None) => {}
                Err(problem) => all.problems.push(problem),
            }
        }
        for stranger in env.strangers() {
            let rest = stranger.strip_prefix(ENV_PREFIX).unwrap_or(stranger);
            let said = format!("the environment variable {stranger} is no setting");
            match table::nearest(rest) {
                // Nobody should believe a misspelt setting to be in force.
                Some(meant) => {
                    let meant = meant.to_ascii_uppercase();
                    all.problems.push(format!("{said}; did you mean {ENV_PREFIX}{meant}?"));
                }
                // Others use the prefix too: Kubernetes sets PORTCULLIS_PORT for a service of that name.
                None => all.warnings.push(said),
            }
        }
        let data_dir = outer.get("data_dir").map_or(default_data_dir(), |found| PathBuf::from(found.text.expose()));
        let explicit =
            flags.config.clone().or_else(|| env.get("PORTCULLIS_CONFIG").map(|path| PathBuf::from(path.expose())));
        let file = explicit
            .or_else(|| [cwd, &cwd.join(data_dir)].map(|dir| dir.join(FILE_NAME)).into_iter().find(|p| p.is_file()));
        if let Some(path) = file {
            let shown = path.strip_prefix(cwd).unwrap_or(&path).to_path_buf();
            match std::fs::read_to_string(&path) {
                Ok(text) => all.read_file(&path, &shown, &text),
                Err(error) => all.problems.push(format!("{} cannot be read: {error}", shown.display())),
            }
            all.file = Some(shown);
        }
        all.found.append(&mut outer); // these win
        all
    }

    /// Reads `[[clients]]`, as far as to know what stands where.
    fn read_clients(&mut self, value: &DeValue<'_>, place_of: impl Fn(usize) -> String, place: &str) {
        let DeValue::Array(items) = value else {
            self.problems.push(format!("{place}: clients must be written as [[clients]]"));
            return;
        };
        for item in items {
            let place = place_of(item.span().start);
            match (item.get_ref(), clients::as_json(item.get_ref())) {
                (DeValue::Table(_), Some(serde_json::Value::Object(members))) => {
                    self.clients.push(clients::Entry { place, members });
                }
                _ => self
                    .problems
                    .push(format!("{place}: [[clients]] holds texts, whole numbers, true, false and lists")),
            }
        }
    }

    /// Reads `portcullis.toml`: a flat table of known names, `[[clients]]` and `[[upstream]]`.
    fn read_file(&mut self, real: &Path, path: &Path, text: &str) {
        let line = |at: usize| text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
        let (table, errors) = DeTable::parse_recoverable(text);
        // The library's short message never quotes the line, which could hold a secret.
        let mut errors: Vec<_> =
            errors.iter().map(|e| (e.span().map_or(1, |span| line(span.start)), e.message())).collect();
        errors.sort_unstable();
        for (at, message) in errors.iter().take(10) {
            self.problems.push(format!("{}:{at}: {message}", path.display()));
        }
        if !errors.is_empty() {
            return;
        }
        let table = table.into_inner();
        for (key, value) in &table {
            let (name, at) = (key.get_ref().as_ref(), line(key.span().start));
            let place = format!("{}:{at}", path.display());
            if name == upstream::TABLE {
                let (upstreams, problems) = upstream::read(value.get_ref(), real, path, &line);
                self.upstreams = upstreams;
                self.problems.extend(problems);
                continue;
            }
            if name == "clients" {
                self.read_clients(value.get_ref(), |at| format!("{}:{}", path.display(), line(at)), &place);
                continue;
            }
            let Some(setting) = table::by_name(name) else {
                self.problems.push(format!("{place}: {}", unknown(name)));
                continue;
            };
            match plain(setting, value.get_ref()) {
                Ok(text) => {
                    let found = Found { text: SecretString::new(text), source: Source::File(path.into(), at) };
                    self.found.insert(setting.name, found);
                }
                Err(expected) => {
                    let got = value.get_ref().type_str();
                    self.problems.push(format!("{place}: {name} must be {expected}, not of type {got}"));
                }
            }
        }
    }
}

/// Where data are kept when nobody says.
fn default_data_dir() -> PathBuf {
    PathBuf::from(table::by_name("data_dir").and_then(|setting| setting.default).unwrap_or("."))
}

/// What to say about a name that is no setting.
fn unknown(name: &str) -> String {
    let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
    match table::nearest(name) {
        Some(meant) => format!("unknown key {shown}; did you mean {meant}?"),
        None => format!("unknown key {shown}; `portcullis config check --help` lists all settings"),
    }
}

/// A value of the file as the text that the other sources would give.
fn plain(setting: &Setting, value: &DeValue<'_>) -> Result<String, &'static str> {
    match (setting.kind, value) {
        (Kind::List, DeValue::Array(items)) => {
            let items: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            items.map(|items| items.join(",")).ok_or("an array of strings")
        }
        (Kind::List, _) => Err("an array of strings"),
        (Kind::Switch, DeValue::Boolean(on)) => Ok(if *on { "on" } else { "off" }.into()),
        (_, DeValue::String(text)) => Ok(text.clone().into_owned()),
        (Kind::Count(..), DeValue::Integer(n)) if n.radix() == 10 => Ok(n.as_str().replace('_', "")),
        (Kind::Text, DeValue::Integer(n)) if setting.name == "argon2_memory" => Ok(n.as_str().replace('_', "")),
        (Kind::Switch, _) => Err("true, false, \"on\" or \"off\""),
        (Kind::Count(..), _) => Err("a whole number"),
        (Kind::Span(..), _) => Err("a string with a unit, such as \"5m\""),
        _ => Err("a string"),
    }
}
