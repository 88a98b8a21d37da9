//! What the default policy makes of the corpus: figures per rule and kind, and what must be so.
use crate::replay::{Given, Run, run};
use crate::trace::{Act, BLIND, KNOWN, Kind, Trace, Verdict, read};
use portcullis_domain::risk::{Judge, Outcome, Signals};
use portcullis_rules::Policy;
use std::collections::{BTreeMap, BTreeSet};

const ALL: [Given; 4] = [
    Given { places: true, sightings: true },
    Given { places: true, sightings: false },
    Given { places: false, sightings: true },
    Given { places: false, sightings: false },
];

/// Names of traces, each with what it is about.
type Said = Vec<String>;

#[derive(Default)]
struct Figures {
    /// Hostile traces of which somebody could tell, and their sessions that should die: of each kind how many there are, how many died.
    stolen: BTreeMap<Kind, (usize, usize)>,
    /// The same of those that nobody could tell.
    untellable: (usize, usize),
    /// Of thefts of tokens: refresh tokens (the thief refreshed with one, see [`Trace::refreshed_by_a_thief`]) and access tokens alone.
    tokens: [(usize, usize); 2],
    /// Stolen sessions that live, of those whose refresh tokens were stolen.
    missed_thefts: Said,
    /// And of those whose access tokens were.
    missed_access: Said,
    missed_others: Said,
    /// Benign traces in which something was ended or blocked.
    false_ends: Said,
    /// Sessions that their owners ended by a copy of their own of a token that was replaced long ago (RFC 9700 §4.14.2).
    own_copies: Said,
    /// Sessions of robbed people that were ended too and were not stolen.
    beside: Said,
    /// Quiet traces in which somebody was asked something.
    disturbed: Said,
    /// Events of which the owner should have been told, and was not; of how many.
    untold: Said,
    notices: usize,
    /// Notices in benign traces that nobody asked for.
    needless: Said,
    /// Attempts in benign traces that the throttle refused.
    throttled: usize,
    /// Of each rule: hits, hits in the right trace after the thief came, and hostile traces in which it hit.
    rules: BTreeMap<String, (usize, usize, BTreeSet<String>)>,
    hostile: usize,
    bytes: usize,
}

fn figures(traces: &[Trace], policy: &Policy, given: Given) -> Figures {
    let mut all = Figures::default();
    for (name, _, _) in policy.rules() {
        all.rules.insert(name.into(), Default::default());
    }
    for trace in traces {
        let came = run(trace, Some(policy), given);
        all.bytes = all.bytes.max(came.bytes);
        all.count(trace, &came);
    }
    all
}

impl Figures {
    fn count(&mut self, trace: &Trace, came: &Run) {
        let label = &trace.label;
        let hostile = label.verdict == Verdict::Hostile;
        self.hostile += usize::from(hostile && !label.untellable);
        for (n, event) in came.events.iter().enumerate() {
            for (rule, _) in &event.hits {
                let entry = self.rules.get_mut(rule).unwrap();
                entry.0 += 1;
                // A notice is right where one is wanted, and what is said of outside where it is true.
                let told = matches!(trace.events[n].act, Act::Signal { .. });
                if hostile && (Some(n) >= label.begins || told) || label.notice.contains(&n) {
                    entry.1 += 1;
                }
                if hostile && Some(n) >= label.begins && !label.untellable {
                    entry.2.insert(trace.name.clone());
                }
            }
            let wanted = label.notice.contains(&n);
            self.notices += usize::from(wanted);
            if wanted && !event.told {
                self.untold.push(format!("{} {n}{}", trace.name, if event.refused { " (refused)" } else { "" }));
            }
            if !hostile && !wanted && event.told {
                self.needless.push(format!("{} {n} {:?}", trace.name, event.hits));
            }
            if label.quiet && event.done.is_some_and(|done| done != Outcome::Throttle) {
                self.disturbed.push(format!("{} {n} {:?}", trace.name, event.hits));
            }
        }
        for (session, at) in &came.ended {
            let by = &came.events[*at].hits;
            if label.own_copy && by.iter().any(|(rule, _)| rule == "replayed-token") {
                self.own_copies.push(format!("{} session {session}", trace.name));
            } else if !hostile {
                self.false_ends.push(format!("{} session {session} at {at} {by:?}", trace.name));
            } else if !label.stolen.contains(session) {
                self.beside.push(format!("{} session {session} at {at} {by:?}", trace.name));
            }
        }
        if !hostile {
            self.throttled += came.throttled.iter().filter(|n| !label.throttled.contains(n)).count();
            self.false_ends.extend(came.blocked.iter().map(|who| format!("{} blocks {who}", trace.name)));
            return;
        }
        let dead = label.stolen.iter().filter(|session| came.dead.contains(session)).count();
        if label.untellable {
            self.untellable.0 += label.stolen.len();
            self.untellable.1 += dead;
            return;
        }
        let entry = self.stolen.entry(label.kind).or_default();
        entry.0 += label.stolen.len();
        entry.1 += dead;
        for session in &label.stolen {
            let (lives, theft) = (!came.dead.contains(session), label.kind == Kind::TokenTheft);
            let access = theft && !trace.refreshed_by_a_thief(*session);
            if theft {
                let entry = &mut self.tokens[usize::from(access)];
                entry.0 += 1;
                entry.1 += usize::from(!lives);
            }
            if lives {
                let list = match (theft, access) {
                    (true, false) => &mut self.missed_thefts,
                    (true, true) => &mut self.missed_access,
                    (false, _) => &mut self.missed_others,
                };
                list.push(format!("{} session {session}", trace.name));
            }
        }
    }

    fn print(&self, what: &str, names: bool) {
        println!("== {what}");
        for (kind, (of, dead)) in &self.stolen {
            println!("   {kind:?}: {dead} of {of} stolen sessions dead at the end");
        }
        for (what, (of, dead)) in ["refresh tokens", "access tokens alone"].iter().zip(&self.tokens) {
            println!("   of thefts of tokens, {what}: {dead} of {of}");
        }
        println!("   nobody could tell: {} of {}", self.untellable.1, self.untellable.0);
        for (about, list) in [
            ("stolen refresh tokens missed", &self.missed_thefts),
            ("stolen access tokens missed", &self.missed_access),
            ("others missed", &self.missed_others),
            ("ended falsely", &self.false_ends),
            ("ended by a copy of the owner's own", &self.own_copies),
            ("ended beside the stolen ones", &self.beside),
            ("quiet, and asked", &self.disturbed),
            ("not told", &self.untold),
            ("told needlessly", &self.needless),
        ] {
            println!(
                "   {about}: {}{}",
                list.len(),
                if names && !list.is_empty() { format!("\n      {}", list.join("\n      ")) } else { String::new() }
            );
        }
        println!(
            "   of {} notices; {} attempts of honest people throttled; longest memory {} bytes",
            self.notices, self.throttled, self.bytes
        );
        for (rule, (hits, right, traces)) in &self.rules {
            let percent = |a: usize, b: usize| (100 * a).checked_div(b).map_or("   -".into(), |n| format!("{n:3}%"));
            println!(
                "   {rule:36} hits {hits:4}  precision {}  recall {} ({} of {} traces)",
                percent(*right, *hits),
                percent(traces.len(), self.hostile),
                traces.len(),
                self.hostile
            );
        }
    }
}

/// Stolen refresh tokens of the known traces that live on, as docs/risk.md says: only what happened at other accounts at the same time
/// tells.
const MISSED: [&str; 1] = ["family-computer-three-jars session 0"];
/// And those that live on where nothing is known of places.
const MISSED_WITHOUT_PLACES: [&str; 4] = [
    MISSED[0],
    "b-every-night-a-fresh-copy session 0",
    "b-seconds-ahead-of-the-owner session 0",
    "e-a-translation-extension-with-new-owners session 10",
];
/// Where nothing is known of places, who comes back days later from another network is anybody.
const ENDED_WITHOUT_PLACES: [&str; 4] = [
    "a-answer-lost-before-a-long-weekend session 0",
    "battery-dead-on-the-coach session 0",
    "d-lid-closed-on-the-answer session 0",
    "television-asleep-with-another-address session 0",
];

#[test]
fn the_default_policy_over_the_known_traces() {
    let (traces, policy) = (KNOWN.into_iter().flat_map(read).collect::<Vec<_>>(), Policy::built_in());
    for given in ALL {
        for folder in KNOWN {
            figures(&read(folder), &policy, given).print(&format!("{folder}, {given:?}"), true);
        }
        let figures = figures(&traces, &policy, given);
        let but = |list: &[String], expected: &[&str]| -> Vec<String> {
            list.iter().filter(|said| !expected.iter().any(|one| said.starts_with(one))).cloned().collect()
        };
        let (missed, ended): (&[&str], &[&str]) =
            if given.places { (&MISSED, &[]) } else { (&MISSED_WITHOUT_PLACES, &ENDED_WITHOUT_PLACES) };
        assert_eq!(but(&figures.missed_thefts, missed), [""; 0], "missed");
        assert_eq!(but(&figures.false_ends, ended), [""; 0], "ended falsely");
        assert_eq!((figures.missed_thefts.len(), figures.false_ends.len()), (missed.len(), ended.len()));
        assert_eq!(figures.own_copies.len(), 2, "{:?}", figures.own_copies);
        assert!(figures.disturbed.is_empty(), "quiet, and asked: {:?}", figures.disturbed);
        // Services tell of these, and their word ends nothing.
        assert_eq!(figures.missed_access.len(), 2);
        assert!(figures.bytes <= portcullis_domain::risk::MAX_BYTES);
    }
}

/// The final figures, of traces that are blind for these rules (corpus/README.md). Nothing of a trace is printed, so that no rule is written
/// after one: counts alone.
#[test]
fn the_default_policy_over_the_held_out_traces() {
    let (traces, policy) = (read(BLIND), Policy::built_in());
    assert!(traces.len() >= 77, "{} traces", traces.len());
    for given in ALL {
        let figures = figures(&traces, &policy, given);
        figures.print(&format!("{BLIND}, {given:?}"), false);
        // What was found when they were run for the first time. A change of the rules that breaks it is told how often, not where.
        assert!(
            figures.tokens[0].0 >= 37 && figures.missed_thefts.is_empty(),
            "{} missed",
            figures.missed_thefts.len()
        );
        assert!(figures.false_ends.is_empty(), "{} ended falsely", figures.false_ends.len());
    }
}

/// Rules that say nothing of anything: what is remembered is, and nothing is done.
struct Silent;

impl Judge for Silent {
    fn judge(&self, _: &Signals) -> portcullis_domain::risk::Verdict {
        portcullis_domain::risk::Verdict::nothing("silent")
    }
    fn version(&self) -> &str {
        "silent"
    }
}

/// The rules for refresh tokens alone end nobody's session that is not stolen (I6), and what they end of the stolen ones is counted. Two
/// owners show a copy of their own of a token that was replaced long ago.
#[test]
fn the_rules_for_refresh_tokens_end_no_session_falsely() {
    let (mut stolen, mut caught, mut own_copies) = (0, 0, 0);
    for trace in KNOWN.into_iter().flat_map(read) {
        let ended = run(&trace, Some(&Silent), ALL[0]).ended;
        for (session, at) in ended.iter().filter(|(session, _)| !trace.label.stolen.contains(session)) {
            let name = &trace.name;
            assert!(trace.label.own_copy, "{name}: session {session} was ended at event {at}, and is not stolen");
            own_copies += 1;
        }
        if trace.label.kind == Kind::TokenTheft {
            stolen += trace.label.stolen.len();
            caught += trace.label.stolen.iter().filter(|session| ended.contains_key(session)).count();
        }
    }
    println!("of {stolen} sessions with stolen tokens the rules for refresh tokens alone end {caught}");
    assert!(caught > 0 && own_copies == 2, "{own_copies}");
}
