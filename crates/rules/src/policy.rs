//! The policy file: from text to rules, with faults that say where and what to do.
use crate::ACTS;
use crate::condition::{Condition, Wrong};
use portcullis_domain::risk::{FIELDS, Hit, Judge, Kind, Outcome, Signals, Verdict, Word};
use portcullis_wire::Millis;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use toml::Spanned;

/// The largest file, in bytes.
pub const MAX_FILE: usize = 256 * 1024;
/// The most rules of one.
pub const MAX_RULES: usize = 200;
/// The longest name, version and reason, in characters.
const MAX_NAME: usize = 60;
const MAX_REASON: usize = 300;
/// The longest block with an end, in days.
const MAX_DAYS: i64 = 3650;
/// So many rows are tried to see whether a condition ever fails.
const TRIES: u32 = 600;

/// What is wrong with a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters from 1.
    pub column: usize,
    /// What is wrong, and what to do.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.what)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: Spanned<String>,
    #[serde(default)]
    rule: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    acts: Spanned<Vec<Spanned<String>>>,
    when: Spanned<String>,
    then: Spanned<Vec<Spanned<String>>>,
    reason: Spanned<String>,
    #[serde(default)]
    shadow: bool,
}

/// A rule that was checked.
#[derive(Debug, Clone)]
struct Rule {
    name: String,
    /// By bits, in the order of [`ACTS`].
    acts: u32,
    condition: Condition,
    outcomes: Vec<Outcome>,
    reason: String,
    shadow: bool,
}

/// A policy that was checked, ready to be evaluated.
#[derive(Debug, Clone)]
pub struct Policy {
    version: String,
    rules: Vec<Rule>,
    warnings: Vec<Fault>,
}

impl Policy {
    /// Reads a policy; all that is wrong with it, if anything is.
    pub fn parse(text: &str) -> Result<Self, Vec<Fault>> {
        let source = Source { text };
        if text.len() > MAX_FILE {
            let what = format!("the file has {} bytes, and may have {MAX_FILE}", text.len());
            return Err(vec![source.fault(0, what)]);
        }
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            vec![source.fault(
                at,
                format!("{}. A rule has name, acts, when, then, reason, and may have shadow", error.message().trim()),
            )]
        })?;
        Reader { source, faults: Vec::new(), warnings: Vec::new() }.read(file)
    }

    /// The policy that is on when no other is given. A test reads it, so that it is never refused.
    pub fn built_in() -> Self {
        let nothing = || Self { version: "none".into(), rules: Vec::new(), warnings: Vec::new() };
        Self::parse(crate::DEFAULT).unwrap_or_else(|_| nothing())
    }

    /// What is not wrong, and may not be what is meant.
    pub fn warnings(&self) -> &[Fault] {
        &self.warnings
    }

    /// Its rules: name, reason, whether it is a shadow.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        self.rules.iter().map(|rule| (rule.name.as_str(), rule.reason.as_str(), rule.shadow))
    }
}

impl Judge for Policy {
    fn judge(&self, signals: &Signals) -> Verdict {
        let row = signals.words();
        let act = bit(&signals.act);
        let rules = self.rules.iter().filter(|rule| rule.acts & act != 0);
        // An overflow is no hit.
        let hits = rules.filter(|rule| rule.condition.holds(&row).unwrap_or(false)).map(|rule| Hit {
            rule: rule.name.clone(),
            outcomes: rule.outcomes.clone(),
            reason: rule.reason.clone(),
            shadow: rule.shadow,
        });
        Verdict { version: self.version.clone(), hits: hits.collect() }
    }

    fn version(&self) -> &str {
        &self.version
    }
}

/// The bit of an act; 0 for what is none.
fn bit(act: &str) -> u32 {
    ACTS.iter().position(|known| *known == act).map_or(0, |place| 1 << place)
}

struct Source<'a> {
    text: &'a str,
}

impl Source<'_> {
    fn fault(&self, at: usize, what: impl Into<String>) -> Fault {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
        Fault { line, column, what: what.into() }
    }

    /// Where byte `at` of a text stands in the file. Where it is written with escapes, the beginning of it.
    fn inside(&self, value: &Spanned<String>, at: usize) -> usize {
        let span = value.span();
        let raw = self.text.get(span.clone()).unwrap_or("");
        raw.find(value.get_ref().as_str()).map_or(span.start, |start| span.start + start + at)
    }
}

struct Reader<'a> {
    source: Source<'a>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Reader<'_> {
    fn say(&mut self, at: usize, what: impl Into<String>) {
        let fault = self.source.fault(at, what);
        self.faults.push(fault);
    }

    fn read(mut self, file: File) -> Result<Policy, Vec<Fault>> {
        let version = file.version.get_ref().trim().to_owned();
        if version.is_empty() || version.chars().count() > MAX_NAME || version.chars().any(char::is_control) {
            let what = format!("the version is a text of 1 to {MAX_NAME} characters: it stands in audit records");
            self.say(file.version.span().start, what);
        }
        if file.rule.len() > MAX_RULES {
            self.say(file.rule[MAX_RULES].span().start, format!("there are more than {MAX_RULES} rules"));
        }
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let mut open: Option<(String, u32)> = None;
        let mut rules = Vec::new();
        for entry in file.rule.iter().take(MAX_RULES).map(Spanned::get_ref) {
            let name = entry.name.get_ref();
            let line = self.source.fault(entry.name.span().start, "").line;
            if let Some(first) = names.insert(name.clone(), line) {
                let what = format!("the rule `{name}` is there twice, first in line {first}: give one another name");
                self.say(entry.name.span().start, what);
            }
            let rule = self.rule(entry);
            if let (Some((by, acts)), Some(rule)) = (&open, &rule)
                && rule.acts & !acts == 0
            {
                let what = format!(
                    "the rule `{name}` never counts, since `{by}` above it allows whatever it is about: put it before that one"
                );
                self.say(entry.name.span().start, what);
            }
            if let Some(rule) = rule {
                if !rule.shadow && rule.outcomes.contains(&Outcome::Allow) && always(&rule) {
                    let acts = open.as_ref().map_or(0, |(_, acts)| *acts) | rule.acts;
                    open = Some((rule.name.clone(), acts));
                }
                rules.push(rule);
            }
        }
        let Self { faults, warnings, .. } = self;
        if faults.is_empty() { Ok(Policy { version, rules, warnings }) } else { Err(faults) }
    }

    fn rule(&mut self, entry: &Entry) -> Option<Rule> {
        let before = self.faults.len();
        let name = entry.name.get_ref().clone();
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(plain) {
            let what = format!("a rule's name is 1 to {MAX_NAME} lower-case letters, digits and hyphens");
            self.say(entry.name.span().start, what);
        }
        let reason = entry.reason.get_ref().trim().to_owned();
        if reason.is_empty() || reason.chars().count() > MAX_REASON || reason.chars().any(char::is_control) {
            let what = format!("the reason is a sentence of 1 to {MAX_REASON} characters on one line: people read it");
            self.say(entry.reason.span().start, what);
        }
        let acts = self.acts(&entry.acts);
        let outcomes = self.outcomes(&entry.then);
        let condition = Condition::parse(entry.when.get_ref());
        if let Err(wrong) = &condition {
            for Wrong { at, what } in wrong {
                let at = self.source.inside(&entry.when, *at);
                self.say(at, what.clone());
            }
        }
        let rule = Rule { name, acts, condition: condition.ok()?, outcomes, reason, shadow: entry.shadow };
        if self.faults.len() == before {
            self.everybody(entry, &rule);
            self.lone_block(entry, &rule);
        }
        (self.faults.len() == before).then_some(rule)
    }

    fn acts(&mut self, list: &Spanned<Vec<Spanned<String>>>) -> u32 {
        if list.get_ref().is_empty() {
            self.say(list.span().start, format!("a rule is about at least one act: {}", ACTS.join(", ")));
        }
        let mut bits = 0;
        for act in list.get_ref() {
            match bit(act.get_ref()) {
                0 => {
                    self.say(act.span().start, format!("`{}` is no act; there are {}", act.get_ref(), ACTS.join(", ")))
                }
                again if bits & again != 0 => self.say(act.span().start, format!("`{}` is there twice", act.get_ref())),
                new => bits |= new,
            }
        }
        bits
    }

    fn outcomes(&mut self, list: &Spanned<Vec<Spanned<String>>>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for text in list.get_ref() {
            match outcome(text.get_ref()) {
                Ok(outcome) if outcomes.contains(&outcome) => {
                    self.say(text.span().start, format!("`{}` is there twice", text.get_ref()));
                }
                Ok(outcome) => outcomes.push(outcome),
                Err(what) => self.say(text.span().start, what),
            }
        }
        if list.get_ref().is_empty() {
            self.say(list.span().start, "a rule has at least one outcome, such as \"notify\"");
        }
        if outcomes.contains(&Outcome::Allow) && outcomes.len() > 1 {
            self.say(list.span().start, "\"allow\" means that nothing is done: it stands alone");
        }
        let blocks = outcomes.iter().filter(|one| matches!(one, Outcome::Block { .. })).count();
        if blocks > 1 {
            self.say(list.span().start, "one block is enough: leave the longer one");
        }
        outcomes
    }

    /// A block is done as often as blocks may be. What is done beyond that should be said.
    fn lone_block(&mut self, entry: &Entry, rule: &Rule) {
        let blocks = rule.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Block { .. }));
        if blocks && !rule.outcomes.contains(&Outcome::EndAll) && !rule.shadow {
            let what = format!(
                "`{}` blocks: beyond `risk_max_blocks_per_minute` it ends that one session, or refuses the sign-in, and no more. Write \"end_all\" beside it where all sessions are to end in any case",
                rule.name
            );
            let fault = self.source.fault(entry.then.span().start, what);
            self.warnings.push(fault);
        }
    }

    /// A rule that nothing escapes is a mistake where it ends something.
    fn everybody(&mut self, entry: &Entry, rule: &Rule) {
        let ends = rule.outcomes.iter().any(|outcome| outcome.ends()) && !rule.shadow;
        if !ends {
            return;
        }
        let at = self.source.inside(&entry.when, 0);
        if always(rule) {
            let what = "the condition holds whatever happens, so that the rule would end everybody's sessions: narrow it, or set `shadow = true` to see what it would do";
            self.say(at, what);
        } else if let Some((act, what)) = CALM.iter().find(|(act, what)| {
            rule.acts & bit(act) != 0 && rule.condition.holds(&Signals::calm(act, what).words()) == Ok(true)
        }) {
            let act = if what.is_empty() { (*act).to_owned() } else { format!("{act} ({what})") };
            let what = format!(
                "the condition holds of an everyday {act} on a known device, so that the rule would end everybody's sessions: narrow it, or set `shadow = true` to see what it would do"
            );
            self.say(at, what);
        }
    }
}

/// Acts that everybody makes every day.
const CALM: &[(&str, &str)] = &[
    ("sign_up", ""),
    ("sign_in", ""),
    ("sign_in", "provider"),
    ("refresh", "rotated"),
    ("refresh", "again"),
    ("prove", ""),
    ("sighting", ""),
];

/// `end_session`, `block 24h`.
fn outcome(text: &str) -> Result<Outcome, String> {
    Ok(match text {
        "allow" => Outcome::Allow,
        "notify" => Outcome::Notify,
        "throttle" => Outcome::Throttle,
        "step_up" => Outcome::StepUp,
        "end_session" => Outcome::EndSession,
        "end_all" => Outcome::EndAll,
        "block" => Outcome::Block { for_ms: None },
        other => {
            let Some(span) = other.strip_prefix("block ") else {
                return Err(format!(
                    "`{other}` is no outcome; there are allow, notify, throttle, step_up, end_session, end_all, block, and block with a time, such as \"block 24h\""
                ));
            };
            Outcome::Block { for_ms: Some(span_ms(span)?) }
        }
    })
}

/// `30m`, `24h`, `7d`.
fn span_ms(text: &str) -> Result<Millis, String> {
    let wrong =
        || format!("`{text}` is no time: write minutes, hours or days, such as 30m, 24h or 7d, up to {MAX_DAYS}d");
    let (digits, unit) = text.split_at(text.len().saturating_sub(1));
    let each: Millis = match unit {
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    let digits =
        Some(digits).filter(|digits| (1..=7).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()));
    let count: Millis = digits.and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    Some(count * each).filter(|ms| (1..=MAX_DAYS * 86_400_000).contains(ms)).ok_or_else(wrong)
}

/// Whether a condition holds of each of many rows that have nothing in common, as far as its acts go.
fn always(rule: &Rule) -> bool {
    let mut chance = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = move |n: u64| {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (chance >> 33) % n
    };
    let acts: Vec<&str> = ACTS.iter().filter(|act| rule.acts & bit(act) != 0).copied().collect();
    (0..TRIES).all(|_| {
        let act = acts[below(acts.len() as u64) as usize];
        let row: Vec<Word<'_>> = FIELDS.iter().map(|field| some(field.name, field.kind, act, &mut below)).collect();
        rule.condition.holds(&row) == Ok(true)
    })
}

/// Some value of a signal.
fn some<'a>(name: &str, kind: Kind, act: &'a str, below: &mut impl FnMut(u64) -> u64) -> Word<'a> {
    const NUMBERS: [i64; 10] = [-1, 0, 1, 2, 3, 6, 20, 500, 90_000, 10_000_000_000];
    let pick = |n: usize, below: &mut dyn FnMut(u64) -> u64| below(n as u64) as usize;
    match kind {
        Kind::Bool => Word::Bool(below(2) == 1),
        Kind::Int => Word::Int(NUMBERS[pick(NUMBERS.len(), below)]),
        Kind::Text if name == "act.kind" => Word::Text(act),
        Kind::Text => {
            let known = crate::WORDS
                .iter()
                .find(|(of, _)| *of == name)
                .map_or(&["", "DE", "firefox/linux"][..], |(_, words)| words);
            Word::Text(known[pick(known.len(), below)])
        }
    }
}
