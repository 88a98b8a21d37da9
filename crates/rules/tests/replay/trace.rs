//! The traces in `corpus/`: that they can be read and make sense.
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    pub name: String,
    story: String,
    pub label: Label,
    pub accounts: Vec<String>,
    pub networks: BTreeMap<String, Network>,
    pub devices: BTreeMap<String, Device>,
    pub events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub ip: IpAddr,
    pub country: Option<String>,
    pub asn: Option<u32>,
    #[serde(rename = "kind")]
    _kind: Option<NetworkKind>,
    pub lat: Option<f64>,
    pub lon: Option<f64>,
    pub radius_km: Option<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    Home,
    Mobile,
    Office,
    Vpn,
    Hosting,
    Public,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    pub agent: String,
    #[serde(default)]
    pub cookie: bool,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    Owner,
    Thief,
    Other,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Wrong,
}

#[derive(Deserialize)]
pub struct Event {
    pub t: u64,
    pub who: Who,
    pub network: Option<String>,
    pub device: Option<String>,
    #[serde(flatten)]
    pub act: Act,
}

#[derive(Deserialize)]
#[serde(tag = "act", rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    SignUp {
        account: String,
    },
    SignIn {
        account: String,
        outcome: Outcome,
        #[serde(default)]
        breached: bool,
        #[serde(default)]
        known: bool,
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
        outcome: Outcome,
    },
    Change {
        session: usize,
        what: What,
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
        kind: SignalKind,
    },
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Password,
    Email,
    Factor,
    App,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Asked,
    Done,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum SignalKind {
    CredentialLeaked,
    DeviceLost,
    Fraud,
}

#[derive(Deserialize, PartialEq, Eq, Clone, Copy)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Hostile,
    Benign,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord, Clone, Copy, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
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
pub struct Label {
    pub verdict: Verdict,
    pub kind: Kind,
    #[serde(default)]
    pub stolen: Vec<usize>,
    #[serde(default)]
    pub accounts: Vec<String>,
    pub begins: Option<usize>,
    pub tellable: Option<usize>,
    #[serde(default)]
    pub throttled: Vec<usize>,
    #[serde(default)]
    pub untellable: bool,
    #[serde(default)]
    pub notice: Vec<usize>,
    #[serde(default)]
    pub quiet: bool,
    #[serde(default)]
    pub own_copy: bool,
}

impl Trace {
    /// The account of the session that this event made, if it made one.
    pub fn session(&self, event: usize) -> Option<&str> {
        match &self.events.get(event)?.act {
            Act::SignUp { account } | Act::SignIn { account, outcome: Outcome::Ok, .. } => Some(account),
            _ => None,
        }
    }
    /// The session that this event got a refresh token of, and that its answer was not lost.
    pub fn token_of(&self, event: usize) -> Option<usize> {
        match &self.events.get(event)?.act {
            Act::Refresh { with, lost: false } if *with < event => self.token_of(*with),
            _ => self.session(event).map(|_| event),
        }
    }

    /// Whether a thief has used a refresh token of this session, and not just access tokens.
    pub fn refreshed_by_a_thief(&self, session: usize) -> bool {
        let of = |event: &Event| match event.act {
            Act::Refresh { with, .. } => self.token_of(with),
            _ => None,
        };
        self.events.iter().any(|event| event.who == Who::Thief && of(event) == Some(session))
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
        say(!hostile && !label.quiet || !label.own_copy, "a copy is the owner's own, and asked about".into());
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
}

/// The folders that rules were written with, or changed after.
pub const KNOWN: [&str; 4] = ["known", "held-out", "held-out-2", "practice"];

/// The set that whoever wrote the rules has not seen (corpus/README.md).
pub const BLIND: &str = "held-out-3";

pub fn read(folder: &str) -> Vec<Trace> {
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
    KNOWN.into_iter().chain([BLIND]).flat_map(read).collect()
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
    let sizes = KNOWN.map(|folder| read(folder).len());
    assert!(sizes[0] >= 320 && sizes[1] >= 150 && sizes[2] >= 50, "{sizes:?}");
    let traces = every_one();
    let mut kinds: BTreeMap<Kind, u32> = BTreeMap::new();
    for trace in &traces {
        *kinds.entry(trace.label.kind).or_default() += 1;
    }
    println!("{} traces: {kinds:?}", traces.len());
    assert!(kinds.len() == 19 && kinds.values().all(|n| *n >= 4), "too few of a kind: {kinds:?}");
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
