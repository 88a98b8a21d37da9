//! The traces in `corpus/`: that they can be read and make sense, and what the rules for refresh tokens alone make of them.
use crate::world::{START, Seeded, apply, key, rules, view};
use portcullis_domain::family::Presented;
use portcullis_domain::refresh::{How, refresh};
use portcullis_domain::view::RefreshView;
use portcullis_domain::{Refused, device};
use portcullis_wire::{ClientId, SecretString};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Trace {
    name: String,
    story: String,
    label: Label,
    accounts: Vec<String>,
    networks: BTreeMap<String, Network>,
    devices: BTreeMap<String, Device>,
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    ip: IpAddr,
    country: Option<String>,
    asn: Option<u32>,
    #[serde(rename = "kind")]
    _kind: Option<NetworkKind>,
    lat: Option<f64>,
    lon: Option<f64>,
    radius_km: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum NetworkKind {
    Home,
    Mobile,
    Office,
    Vpn,
    Hosting,
    Public,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    agent: String,
    #[serde(default)]
    cookie: bool,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Who {
    Owner,
    Thief,
    Other,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Wrong,
}

#[derive(Deserialize)]
struct Event {
    t: u64,
    who: Who,
    network: Option<String>,
    device: Option<String>,
    #[serde(flatten)]
    act: Act,
}

#[derive(Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
enum Act {
    SignUp {
        account: String,
    },
    SignIn {
        account: String,
        outcome: Outcome,
        #[serde(default)]
        breached: bool,
        #[serde(default, rename = "known")]
        _known: bool,
    },
    Refresh {
        with: usize,
        #[serde(default)]
        lost: bool,
    },
    Use {
        session: usize,
    },
    Prove {
        session: usize,
        #[serde(rename = "outcome")]
        _outcome: Outcome,
    },
    Change {
        session: usize,
        #[serde(rename = "what")]
        _what: What,
    },
    SignOut {
        session: usize,
        #[serde(default)]
        all: bool,
    },
    Recover {
        account: String,
        step: Step,
    },
    Signal {
        account: String,
        #[serde(rename = "kind")]
        _kind: SignalKind,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Password,
    Email,
    Factor,
    App,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Step {
    Asked,
    Done,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SignalKind {
    CredentialLeaked,
    DeviceLost,
    Fraud,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Hostile,
    Benign,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord, Clone, Copy, Debug)]
#[serde(rename_all = "snake_case")]
enum Kind {
    TokenTheft,
    Stuffing,
    Spraying,
    Guessing,
    Hijack,
    Takeover,
    Tabs,
    LostAnswers,
    Vpn,
    Train,
    Mobile,
    Office,
    Travel,
    NewPhone,
    Sleep,
    Restore,
    Forgetful,
    Family,
    Automation,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Label {
    verdict: Verdict,
    kind: Kind,
    #[serde(default)]
    stolen: Vec<usize>,
    #[serde(default)]
    accounts: Vec<String>,
    begins: Option<usize>,
    tellable: Option<usize>,
    #[serde(default)]
    throttled: Vec<usize>,
    #[serde(default)]
    untellable: bool,
    #[serde(default)]
    notice: Vec<usize>,
    #[serde(default)]
    quiet: bool,
}

impl Trace {
    /// The account of the session that this event made, if it made one.
    fn session(&self, event: usize) -> Option<&str> {
        match &self.events.get(event)?.act {
            Act::SignUp { account } | Act::SignIn { account, outcome: Outcome::Ok, .. } => Some(account),
            _ => None,
        }
    }
    /// The session that this event got a refresh token of, and that its answer was not lost.
    fn token_of(&self, event: usize) -> Option<usize> {
        match &self.events.get(event)?.act {
            Act::Refresh { with, lost: false } if *with < event => self.token_of(*with),
            _ => self.session(event).map(|_| event),
        }
    }

    fn check(&self) -> Vec<String> {
        let mut wrong = vec![];
        let mut say = |yes: bool, what: String| {
            if !yes {
                wrong.push(format!("{}: {what}", self.name));
            }
        };
        say(
            !self.name.is_empty()
                && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            "the name is not in kebab case".into(),
        );
        say(self.story.len() >= 40, "the story says too little".into());
        for (name, network) in &self.networks {
            let place = network.lat.zip(network.lon).zip(network.radius_km);
            let (any, ok) = (
                network.lat.is_some() || network.lon.is_some() || network.radius_km.is_some(),
                place.is_some_and(|((lat, lon), r)| {
                    (-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon) && (0.0..=20_000.0).contains(&r)
                }),
            );
            say(!any || ok, format!("network {name}: a place has lat, lon and radius_km"));
            let country = network.country.as_deref();
            say(
                country.is_none_or(|c| c.len() == 2 && c.bytes().all(|b| b.is_ascii_uppercase())),
                format!("network {name}: country is not ISO 3166-1 alpha-2"),
            );
            say(network.asn.is_none_or(|asn| asn > 0), format!("network {name}: asn"));
        }
        let known: BTreeSet<&str> = self.accounts.iter().map(String::as_str).collect();
        let mut made: BTreeSet<&str> = known.clone();
        let mut used = BTreeSet::new();
        let mut last = 0;
        for (n, event) in self.events.iter().enumerate() {
            say(event.t >= last, format!("event {n} goes back in time"));
            last = event.t;
            let from = event.network.is_some() && event.device.is_some();
            let outside = matches!(event.act, Act::Signal { .. });
            say(from != outside, format!("event {n} names network and device, or is a signal"));
            if let Some(network) = &event.network {
                say(self.networks.contains_key(network), format!("event {n}: no network {network}"));
                used.insert(network.as_str());
            }
            if let Some(device) = &event.device {
                say(self.devices.contains_key(device), format!("event {n}: no device {device}"));
                used.insert(device.as_str());
            }
            match &event.act {
                Act::SignUp { account } => {
                    say(!known.contains(account.as_str()), format!("event {n}: {account} exists"));
                    say(made.insert(account), format!("event {n}: {account} was made"));
                }
                Act::SignIn { account, breached, outcome, .. } => {
                    say(made.contains(account.as_str()), format!("event {n}: no account {account}"));
                    say(*outcome == Outcome::Ok || !breached, format!("event {n}: only a right password is breached"));
                }
                Act::Recover { account, .. } | Act::Signal { account, .. } => {
                    say(made.contains(account.as_str()), format!("event {n}: no account {account}"));
                }
                Act::Refresh { with, .. } => {
                    say(
                        *with < n && self.token_of(*with).is_some(),
                        format!("event {n}: nobody has the token of {with}"),
                    );
                }
                Act::Use { session }
                | Act::Prove { session, .. }
                | Act::Change { session, .. }
                | Act::SignOut { session, .. } => {
                    say(
                        *session < n && self.session(*session).is_some(),
                        format!("event {n}: {session} made no session"),
                    );
                }
            }
        }
        for name in self.networks.keys().chain(self.devices.keys()) {
            say(used.contains(name.as_str()), format!("{name} is not used"));
        }
        self.check_label(&mut say);
        wrong
    }

    fn check_label(&self, say: &mut dyn FnMut(bool, String)) {
        let label = &self.label;
        let hostile = label.verdict == Verdict::Hostile;
        say(hostile == (label.kind <= Kind::Takeover), "verdict and kind disagree".into());
        let thief = self.events.iter().position(|event| event.who == Who::Thief);
        say(hostile == thief.is_some(), "a thief acts in hostile traces, and in no others".into());
        say(label.begins == thief, format!("begins is {:?}, the thief's first event {thief:?}", label.begins));
        say(
            hostile == label.tellable.is_some()
                && label.tellable.is_none_or(|at| at < self.events.len() && Some(at) >= label.begins),
            "tellable is an event, not before begins, of hostile traces".into(),
        );
        say(hostile != label.accounts.is_empty(), "accounts are those whom it happens to".into());
        say(
            label.accounts.iter().all(|one| self.accounts.contains(one)),
            "accounts exist when the trace begins".into(),
        );
        say(hostile || label.stolen.is_empty() && !label.untellable, "nothing is stolen in benign traces".into());
        say(!hostile || !label.quiet, "only a benign trace is quiet".into());
        say(label.kind != Kind::TokenTheft || !label.stolen.is_empty(), "a theft of tokens has stolen sessions".into());
        for n in &label.stolen {
            let of = self.session(*n);
            say(
                of.is_some_and(|account| label.accounts.iter().any(|one| one == account)),
                format!("stolen: {n} is no session of who was robbed"),
            );
        }
        for n in label.throttled.iter().chain(&label.notice) {
            say(*n < self.events.len(), format!("label: there is no event {n}"));
        }
        for n in &label.throttled {
            let can = matches!(
                self.events.get(*n).map(|event| &event.act),
                Some(Act::SignIn { .. } | Act::Recover { .. } | Act::Prove { .. } | Act::SignUp { .. })
            );
            say(can, format!("throttled: event {n} is no attempt"));
        }
    }

    /// The sessions that the rules for refresh tokens end by themselves, and when.
    fn ended_by_family(&self) -> BTreeMap<usize, usize> {
        let mut chance = Seeded(7);
        let mut rows: BTreeMap<usize, RefreshView> = BTreeMap::new();
        let mut tokens: BTreeMap<usize, SecretString> = BTreeMap::new();
        let mut ended = BTreeMap::new();
        for (n, event) in self.events.iter().enumerate() {
            let now = START.plus(i64::try_from(event.t).unwrap() * 1000);
            let device = event.device.as_ref().map(|name| &self.devices[name]);
            match &event.act {
                Act::SignUp { .. } | Act::SignIn { outcome: Outcome::Ok, .. } => {
                    let mut row = view(now);
                    let device = device.unwrap();
                    row.session.agent = device::family(Some(&device.agent));
                    (row.session.created_at, row.session.last_seen_at) = (now, now);
                    row.session.absolute_expires_at = now.plus(rules().absolute_ttl);
                    (row.grant.family.made_at, row.grant.family.handed_at) = (now, now);
                    tokens.insert(n, row.grant.family.current_token(&key(), row.grant.id));
                    rows.insert(n, row);
                }
                Act::Refresh { with, lost } => {
                    let (session, device) = (self.token_of(*with).unwrap(), device.unwrap());
                    let (Some(row), Some(token)) = (rows.get_mut(&session), tokens.get(with)) else { continue };
                    (row.stamp.now, row.stamp.horizon) = (now, now.plus(3_600_000));
                    let how = How {
                        cookie: device.cookie,
                        user_agent: Some(device.agent.clone()),
                        ip: event.network.as_ref().map(|name| self.networks[name].ip),
                        client: ClientId::FIRST_PARTY,
                        proven: false,
                        sender: None,
                    };
                    let presented = Presented::parse(token).unwrap();
                    let decision = refresh(row, &presented, &how, &rules(), &key(), &key(), &mut chance);
                    apply(row, &decision.changes, now);
                    match decision.outcome {
                        Ok(issued) if !lost => {
                            tokens.insert(n, issued.refresh);
                        }
                        Err(Refused::RefreshReused) => {
                            ended.entry(session).or_insert(n);
                        }
                        Ok(_) | Err(_) => {}
                    }
                }
                Act::SignOut { session, all } => {
                    let account = self.session(*session).unwrap();
                    rows.retain(|of, _| of != session && !(*all && self.session(*of) == Some(account)));
                }
                Act::Recover { account, step: Step::Done } => {
                    rows.retain(|of, _| self.session(*of) != Some(account));
                }
                _ => {}
            }
        }
        ended
    }
}

fn read(folder: &str) -> Vec<Trace> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus").join(folder);
    let mut traces = vec![];
    for file in std::fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|ext| ext != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let some: Vec<Trace> = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        traces.extend(some);
    }
    traces
}

fn every_one() -> Vec<Trace> {
    read("known").into_iter().chain(read("held-out")).collect()
}

#[test]
fn every_trace_makes_sense() {
    let traces = every_one();
    let wrong: Vec<String> = traces.iter().flat_map(Trace::check).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let names: BTreeSet<&str> = traces.iter().map(|trace| trace.name.as_str()).collect();
    assert_eq!(names.len(), traces.len(), "names are not unique");
}

#[test]
fn there_are_enough_of_each_kind() {
    let (known, held_out) = (read("known"), read("held-out"));
    assert!(known.len() >= 140 && held_out.len() >= 70, "{} known, {} held out", known.len(), held_out.len());
    let mut kinds: BTreeMap<Kind, u32> = BTreeMap::new();
    for trace in known.iter().chain(&held_out) {
        *kinds.entry(trace.label.kind).or_default() += 1;
    }
    println!("{} traces: {kinds:?}", known.len() + held_out.len());
    assert!(kinds.len() == 19 && kinds.values().all(|n| *n >= 4), "too few of a kind: {kinds:?}");
}

/// The rules for refresh tokens end nobody's session that is not stolen (I6), and what they end of the stolen ones is counted.
#[test]
fn the_rules_for_refresh_tokens_end_no_session_falsely() {
    let (mut stolen, mut caught) = (0, 0);
    for trace in every_one() {
        let ended = trace.ended_by_family();
        for (session, at) in &ended {
            assert!(
                trace.label.stolen.contains(session),
                "{}: session {session} was ended at event {at}, and is not stolen",
                trace.name
            );
        }
        if trace.label.kind == Kind::TokenTheft {
            stolen += trace.label.stolen.len();
            caught += trace.label.stolen.iter().filter(|session| ended.contains_key(session)).count();
        }
    }
    println!("of {stolen} sessions with stolen tokens the rules for refresh tokens alone end {caught}");
    assert!(caught > 0);
}

#[test]
fn a_member_that_nobody_knows_is_refused() {
    let trace = |more: &str| {
        format!(
            r#"{{"name": "a", "story": "", "label": {{"verdict": "benign", "kind": "tabs"}}, "accounts": ["anna"], "networks": {{}},
            "devices": {{}}, "events": [{{"t": 0, "who": "owner", "act": "use", "session": 0, "network": "home", "device": "pc"{more}}}]}}"#
        )
    };
    assert!(serde_json::from_str::<Trace>(&trace("")).is_ok());
    assert!(serde_json::from_str::<Trace>(&trace(r#", "lost": true"#)).is_err());
    let checked = serde_json::from_str::<Trace>(&trace("")).unwrap().check();
    assert!(checked.iter().any(|one| one.contains("no network home")), "{checked:?}");
    assert!(checked.iter().any(|one| one.contains("0 made no session")), "{checked:?}");
}
