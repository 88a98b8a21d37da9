//! Blocks, deletions and changed passwords that a backup does not know, kept in a journal apart from the database, and done again
//! after a restore (DESIGN §4.5).
//!
//! A line of the journal says what an account *is* since an act, not what was done: so lines can be read in any number, the last
//! one of an account counts (of its passwords the last one that a line has), and doing it twice changes nothing. A restored copy is older than some lines and as old as others;
//! those that it knows already are left out, for the copy may know a later act that the journal missed.
use crate::account;
use crate::changes::{Change, Changes, Expect};
use crate::event::{EventKind, NewEvent};
use crate::kernel::By;
use crate::model::Status;
use crate::view::{AccountView, Stamp};
use crate::{Chance, Decision};
use alloc::{collections::BTreeMap, format, string::String, string::ToString, vec, vec::Vec};
use portcullis_wire::{AccountId, Epoch, EventId, LogId, Rev, Time};
use serde::{Deserialize, Serialize};

/// The form of the lines.
pub const VERSION: u32 = 1;

/// What an account is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It may sign in.
    Active,
    /// It may not, until `until` or until somebody lifts it.
    Blocked,
    /// It may not, and is gone at `until`.
    Deleting,
    /// Gone.
    Deleted,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// [`VERSION`].
    pub v: u32,
    /// The log.
    pub log: LogId,
    /// Its generation
    pub epoch: Epoch,
    /// and newest position when the account was seen to be so: what a copy must have come to, to know it.
    pub rev: Rev,
    /// When that was, by the database's clock.
    pub at: Time,
    /// Whose line it is; none in the first one, which says where a journal begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// What it is since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Word>,
    /// Why it is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when it is blocked, or when it will be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
    /// The hash of its password, when that was changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// What a journal must hear of, of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touch {
    /// What it is.
    Status,
    /// That, and its password.
    Password,
}

/// What a journal knows of an account, and a copy does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown<'a> {
    /// Its last line.
    pub line: &'a Line,
    /// The hash of its last password.
    pub password: Option<&'a str>,
}

/// What is wrong with a journal, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Counted from 1.
    pub line: usize,
    /// In words.
    pub detail: String,
}

/// A journal that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Journal {
    /// Its lines in order.
    pub lines: Vec<Line>,
    /// Whether the last line was cut off, as by a crash in the middle of writing; it is left out then.
    pub torn: bool,
}

/// What became of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is now what the line says.
    Done,
    /// It was already.
    AlreadySo,
    /// One step of two was made: to be decided again.
    More,
}

impl Line {
    /// Where a journal begins.
    pub fn begin(stamp: &Stamp) -> Self {
        Self::at(stamp)
    }

    /// What an account is now.
    pub fn of(view: &AccountView, touch: Touch) -> Self {
        let (status, reason, until) = match &view.account.status {
            Status::Active => (Word::Active, None, None),
            Status::Blocked(block) => (Word::Blocked, Some(block.reason.clone()), block.until),
            Status::Deleting { until, .. } => (Word::Deleting, None, Some(*until)),
            Status::Deleted { .. } => (Word::Deleted, None, None),
        };
        let (account, status) = (Some(view.account.id), Some(status));
        let password = view.account.password_hash.clone().filter(|_| touch == Touch::Password);
        Self { account, status, reason, until, password, ..Self::at(&view.stamp) }
    }

    fn at(stamp: &Stamp) -> Self {
        let (log, epoch, rev, at) = (stamp.log, stamp.epoch, stamp.head, stamp.now);
        Self { v: VERSION, log, epoch, rev, at, account: None, status: None, reason: None, until: None, password: None }
    }
}

/// Accounts whose status or password these changes set. A better hash of the same password is nothing new.
pub fn touched(changes: &Changes) -> impl Iterator<Item = (AccountId, Touch)> + '_ {
    changes.steps.iter().filter_map(|step| match step {
        Change::SetStatus { account, .. } => Some((*account, Touch::Status)),
        Change::SetPassword { account, rehash: false, .. } => Some((*account, Touch::Password)),
        _ => None,
    })
}

/// Reads a journal.
///
/// # Errors
/// The first line that is none, or that contradicts itself. A last line without its end is left out.
pub fn parse(text: &str) -> Result<Journal, Wrong> {
    let mut journal = Journal::default();
    for (n, raw) in text.split_inclusive('\n').enumerate() {
        let Some(line) = raw.strip_suffix('\n') else {
            journal.torn = true;
            break;
        };
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |detail: String| Wrong { line: n + 1, detail };
        let line: Line = serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        if line.v != VERSION {
            return Err(wrong(format!("it is of form {}; this release reads {VERSION}", line.v)));
        }
        match (line.account, line.status, &line.reason, line.until) {
            (None, ..) if line.password.is_some() => return Err(wrong("a `password` without an `account`".into())),
            (None, None, None, None)
            | (Some(_), Some(Word::Active | Word::Deleted), None, None)
            | (Some(_), Some(Word::Deleting), None, Some(_))
            | (Some(_), Some(Word::Blocked), Some(_), _) => {}
            _ => return Err(wrong("`status`, `reason` and `until` do not go together".into())),
        }
        journal.lines.push(line);
    }
    Ok(journal)
}

impl Journal {
    /// The log that it is of; `None` when it is empty, an error when it is of several.
    ///
    /// # Errors
    /// The first line of another log.
    pub fn log(&self) -> Result<Option<LogId>, Wrong> {
        let first = self.lines.first().map(|line| line.log);
        match self.lines.iter().position(|line| Some(line.log) != first) {
            Some(n) => Err(Wrong { line: n + 1, detail: "it is of another log than the first one".into() }),
            None => Ok(first),
        }
    }

    /// What each account is that a copy of the database does not know: its last line, if that is younger than the copy.
    pub fn unknown_to(&self, copy: &Stamp) -> BTreeMap<AccountId, Unknown<'_>> {
        // Lifting a block writes no entry: at the position of the copy, time tells.
        let newer = |line: &Line| {
            let (there, here) = ((line.epoch, line.rev), (copy.epoch, copy.head));
            there > here || there == here && line.at > copy.floor
        };
        let mut last: BTreeMap<AccountId, Unknown<'_>> = BTreeMap::new();
        for line in &self.lines {
            let Some(account) = line.account else { continue };
            let before = last.get(&account).and_then(|before| before.password);
            let password = line.password.as_deref().filter(|_| newer(line)).or(before);
            last.insert(account, Unknown { line, password });
        }
        last.retain(|_, unknown| newer(unknown.line));
        last
    }

    /// Whether it reaches back to the copy; else acts between the two may be missing.
    pub fn reaches(&self, copy: &Stamp) -> bool {
        self.lines.first().is_some_and(|first| (first.epoch, first.rev) <= (copy.epoch, copy.head))
    }
}

/// Makes an account what the journal says, in one step or several. Into a copy whose log is founded anew: a password that comes
/// back so ends nothing, for nothing lives there.
pub fn decide(view: &AccountView, unknown: &Unknown<'_>, by: &By<'_>, chance: &mut dyn Chance) -> Decision<Fate> {
    let Decision { outcome, changes } = decide_status(view, unknown.line, by, chance);
    let account = &view.account;
    let password = unknown.password.filter(|hash| account.password_hash.as_deref() != Some(*hash));
    let Some(hash) = password.filter(|_| !matches!(account.status, Status::Deleted { .. })) else {
        return Decision { outcome, changes };
    };
    if !changes.is_empty() {
        return Decision { outcome: outcome.map(|_| Fate::More), changes };
    }
    let event = NewEvent::new(EventId::from_bits(chance.bits()), EventKind::PasswordChanged, &by.actor);
    let changes = Changes {
        expects: vec![
            Expect::AccountVersion { account: account.id, version: account.version },
            Expect::PasswordVersion { account: account.id, version: account.password_version },
        ],
        steps: vec![Change::SetPassword { account: account.id, hash: hash.into(), rehash: false }],
        events: vec![event.account(account.id).ip(by.ip).reason("from the journal of acts")],
        ..Changes::default()
    };
    Decision { outcome: Ok(Fate::Done), changes }
}

fn decide_status(view: &AccountView, line: &Line, by: &By<'_>, chance: &mut dyn Chance) -> Decision<Fate> {
    let now = view.stamp.now;
    let passed = line.until.is_some_and(|until| until <= now);
    let is = &view.account.status;
    match line.status {
        _ if matches!(is, Status::Deleted { .. }) => Decision::answer(Fate::AlreadySo),
        None => Decision::answer(Fate::AlreadySo),
        Some(Word::Active) => lift(view, by, chance, Fate::Done),
        // It has lifted itself since.
        Some(Word::Blocked) if passed => lift(view, by, chance, Fate::Done),
        Some(Word::Blocked) => {
            let reason = line.reason.as_deref().unwrap_or("blocked");
            match is {
                Status::Blocked(block) if block.until == line.until && block.reason == reason => {
                    Decision::answer(Fate::AlreadySo)
                }
                Status::Deleting { .. } => lift(view, by, chance, Fate::More),
                _ => done(account::block(view, reason, line.until, by, chance)),
            }
        }
        Some(Word::Deleting | Word::Deleted) if matches!(is, Status::Deleting { .. }) => {
            Decision::answer(Fate::AlreadySo)
        }
        Some(Word::Deleting) => {
            let left = line.until.map_or(0, |until| until.since(now)).max(0);
            done(account::delete(view, left, by, chance))
        }
        Some(Word::Deleted) => done(account::delete(view, 0, by, chance)),
    }
}

fn done<T>(decision: Decision<T>) -> Decision<Fate> {
    Decision { outcome: decision.outcome.map(|_| Fate::Done), changes: decision.changes }
}

fn lift(view: &AccountView, by: &By<'_>, chance: &mut dyn Chance, fate: Fate) -> Decision<Fate> {
    if view.account.status == Status::Active {
        return Decision::answer(Fate::AlreadySo);
    }
    let Decision { outcome, changes } = account::unblock(view, by, chance);
    Decision { outcome: outcome.map(|()| fate), changes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cut;
    use crate::model::{Account, Block};
    use portcullis_wire::Chain;

    struct Dice(u128);
    impl Chance for Dice {
        fn bits(&mut self) -> u128 {
            self.0 += 1;
            self.0
        }
    }

    fn stamp(rev: u64, now: i64) -> Stamp {
        Stamp {
            log: LogId::from_bits(1),
            epoch: Epoch(1),
            head: Rev(rev),
            chain: Chain([0; 32]),
            horizon: Time(0),
            floor: Time(now - 10),
            all: Cut::default(),
            worked_off: Rev::ZERO,
            now: Time(now),
        }
    }

    fn view(status: Status, rev: u64, now: i64) -> AccountView {
        let account = Account {
            id: AccountId::from_bits(5),
            email: Some("ada@example.org".into()),
            name: None,
            password_hash: None,
            password_version: 1,
            email_verified_at: None,
            roles: Vec::new(),
            status,
            created_at: Time(0),
            cut: Cut::default(),
            version: 1,
        };
        AccountView { stamp: stamp(rev, now), account, all_ended: Rev::ZERO }
    }

    fn states() -> [Status; 4] {
        let block = Block { at: Time(1), actor: "operator".into(), reason: "spam".into(), until: Some(Time(900)) };
        [
            Status::Active,
            Status::Blocked(block),
            Status::Deleting { at: Time(1), until: Time(900), rev: Rev(1) },
            Status::Deleted { at: Time(1), rev: Rev(1) },
        ]
    }

    /// Whether an account is what the line says.
    fn is_so(account: &Account, line: &Line, now: Time) -> bool {
        let passed = line.until.is_some_and(|until| until <= now);
        match line.status {
            None => true,
            Some(Word::Active) => account.usable_at(now),
            Some(Word::Blocked) => passed || account.block_at(now).is_some(),
            Some(Word::Deleting | Word::Deleted) => {
                matches!(account.status, Status::Deleting { .. } | Status::Deleted { .. })
            }
        }
    }

    /// What the store does with the changes, as far as it matters here.
    fn apply(view: &mut AccountView, changes: &Changes) {
        for step in &changes.steps {
            match step {
                Change::SetStatus { status, .. } => view.account.status = status.clone(),
                Change::SetPassword { hash, .. } => view.account.password_hash = Some(hash.clone()),
                _ => {}
            }
        }
    }

    #[test]
    fn whatever_a_copy_says_it_comes_to_what_the_line_says_and_twice_is_once() {
        for was in states() {
            for is in states() {
                for (now, password) in [(100, None), (1_000, None), (100, Some("new")), (1_000, Some("new"))] {
                    let line = Line::of(&view(is.clone(), 9, 50), Touch::Status);
                    let line = parse(&format!("{}\n", serde_json::to_string(&line).unwrap())).unwrap().lines.remove(0);
                    let unknown = Unknown { line: &line, password };
                    let mut here = view(was.clone(), 3, now);
                    let mut fates = Vec::new();
                    for _ in 0..5 {
                        let Decision { outcome, changes } = decide(&here, &unknown, &By::SYSTEM, &mut Dice(0));
                        let fate = outcome.unwrap();
                        assert_eq!(fate == Fate::AlreadySo, changes.is_empty());
                        assert_eq!(touched(&changes).count(), usize::from(!changes.is_empty()));
                        apply(&mut here, &changes);
                        fates.push(fate);
                    }
                    assert_eq!(fates.last(), Some(&Fate::AlreadySo), "{was:?} {is:?} {fates:?}");
                    let gone = matches!(was, Status::Deleted { .. });
                    assert!(
                        gone || is_so(&here.account, &line, Time(now)),
                        "{was:?} {is:?}: {:?}",
                        here.account.status
                    );
                    assert!(!gone || fates[0] == Fate::AlreadySo, "a tombstone stays one");
                    let deleted = matches!(here.account.status, Status::Deleted { .. });
                    assert!(deleted || here.account.password_hash.as_deref() == password, "{was:?} {is:?}");
                }
            }
        }
    }

    #[test]
    fn the_last_line_counts_if_the_copy_does_not_know_it() {
        let [active, blocked, ..] = states();
        let lines = |states: &[(Status, u64, i64)]| Journal {
            lines: states
                .iter()
                .map(|(status, rev, at)| Line::of(&view(status.clone(), *rev, *at), Touch::Status))
                .collect(),
            torn: false,
        };
        let copy = stamp(5, 100); // its F is 90
        for (journal, due) in [
            (lines(&[(blocked.clone(), 6, 50)]), Some(Word::Blocked)),
            (lines(&[(blocked.clone(), 5, 80)]), None),
            (lines(&[(blocked.clone(), 6, 110), (active.clone(), 6, 120)]), Some(Word::Active)),
            (lines(&[(blocked.clone(), 4, 80), (active.clone(), 4, 85)]), None),
            (lines(&[(active.clone(), 5, 95)]), Some(Word::Active)),
        ] {
            let found = journal.unknown_to(&copy);
            assert_eq!(found.values().next().and_then(|unknown| unknown.line.status), due, "{journal:?}");
        }
        assert!(lines(&[(active.clone(), 5, 1)]).reaches(&copy) && !lines(&[(active, 6, 1)]).reaches(&copy));
    }

    #[test]
    fn the_last_password_counts_if_the_copy_does_not_know_it() {
        let copy = stamp(5, 100);
        let line = |password: Option<&str>, rev| {
            let mut view = view(Status::Active, rev, 100);
            view.account.password_hash = password.map(Into::into);
            Line::of(&view, if password.is_some() { Touch::Password } else { Touch::Status })
        };
        for (lines, due) in [
            (vec![line(Some("a"), 6)], Some(Some("a"))),
            (vec![line(Some("a"), 6), line(None, 7)], Some(Some("a"))), // blocked since, say
            (vec![line(Some("a"), 6), line(Some("b"), 7)], Some(Some("b"))),
            (vec![line(Some("a"), 4), line(None, 7)], Some(None)),
            (vec![line(Some("a"), 4)], None),
        ] {
            let journal = Journal { lines, torn: false };
            assert_eq!(journal.unknown_to(&copy).values().next().map(|unknown| unknown.password), due, "{journal:?}");
        }
    }

    #[test]
    fn a_journal_is_read_whole_or_not_at_all() {
        let good = serde_json::to_string(&Line::of(&view(Status::Active, 1, 1), Touch::Status)).unwrap();
        let begin = serde_json::to_string(&Line::begin(&stamp(0, 0))).unwrap();
        let read = parse(&format!("{begin}\n\n{good}\n")).unwrap();
        assert_eq!((read.lines.len(), read.torn), (2, false));
        let torn = parse(&format!("{begin}\n{}", &good[..20])).unwrap();
        assert_eq!((torn.lines.len(), torn.torn), (1, true));
        let cases: [(String, &str); 6] = [
            ("no json".into(), "expected"),
            (good.replace("\"v\":1", "\"v\":2"), "of form 2"),
            (good.replace("active", "asleep"), "unknown variant"),
            (good.replace("\"active\"", "\"blocked\""), "do not go together"),
            (good.replace('{', "{\"more\":1,"), "unknown field"),
            (begin.replace('{', "{\"password\":\"x\","), "without an `account`"),
        ];
        for (bad, words) in cases {
            let wrong = parse(&format!("{begin}\n{bad}\n")).unwrap_err();
            assert!(wrong.line == 2 && wrong.detail.contains(words), "{wrong:?}");
        }
        let other = good.replace(&LogId::from_bits(1).to_string(), &LogId::from_bits(2).to_string());
        assert_eq!(parse(&format!("{begin}\n{other}\n")).unwrap().log().unwrap_err().line, 2);
        assert_eq!(read.log(), Ok(Some(LogId::from_bits(1))));
    }
}
