//! What really happened, kept apart from what anybody in the world believes. Checks read this and nothing else.
use crate::clock::At;
use portcullis_domain::changes::Change;
use portcullis_domain::kernel::{Door, Scope};
use portcullis_domain::mass::{Filter, Standing};
use portcullis_wire::{AccessClaims, AccountId, ClientId, Entry, GrantId, KeyId, Rev, SessionId, Target, Time, Verb};
use std::collections::{BTreeMap, BTreeSet};

/// A session, and the head of the snapshot that its proof (the password's hash) was read from.
#[derive(Debug, Clone)]
pub struct SessionFact {
    pub account: AccountId,
    pub proof: Rev,
    /// Whose own it is, when it is an application's.
    pub client: Option<ClientId>,
}

/// A code: the head of the snapshot that it was made from, and what came of it.
#[derive(Debug, Clone)]
pub struct CodeFact {
    pub account: AccountId,
    /// The browser's.
    pub session: SessionId,
    pub client: ClientId,
    pub expires_at: Time,
    pub proof: Rev,
    /// How many proofs of its session were on disk when it was.
    pub proofs: usize,
    pub given: Vec<GrantId>,
}

/// A device's request: the head of the snapshot that it was made from, and what came of it.
#[derive(Debug, Clone)]
pub struct DeviceFact {
    pub proof: Rev,
    /// The head of the snapshot that somebody said yes to: before that nothing was anybody's to withdraw.
    pub allowed: Rev,
    /// Whose proofs stand behind the yes: the browser's session, and how many of its were on disk then.
    pub proven: Option<(SessionId, usize)>,
    pub given: Vec<GrantId>,
    /// When it was last told to wait: database time, true time.
    pub waited: Option<(Time, At)>,
}

/// Whoever exchanged a token: as which account, and the head of the snapshot that both were read from.
#[derive(Debug, Clone, Copy)]
pub struct Hand {
    pub client: ClientId,
    pub account: AccountId,
    pub proof: Rev,
}

/// A token that left the server, and the head of the snapshot that its facts were read from.
#[derive(Debug, Clone)]
pub struct TokenFact {
    pub claims: AccessClaims,
    pub facts: Rev,
    /// When it left.
    pub left: At,
    pub session: SessionId,
    pub account: AccountId,
    pub grant: GrantId,
    /// Whose grant that is.
    pub client: ClientId,
    /// Whoever it came through, the first one first.
    pub hands: Vec<Hand>,
    /// The proof of its session.
    pub proof: Rev,
    /// When what it rests on was allowed: a withdrawal before that is about something else.
    pub allowed: Rev,
    /// The key that signed it.
    pub key: KeyId,
}

/// An act that takes access away.
#[derive(Debug, Clone)]
pub struct Act {
    pub door: Door,
    pub scope: Scope,
    pub except: Option<SessionId>,
    /// Only these, when a filter matched them.
    pub only: Option<BTreeSet<SessionId>>,
    /// The filter that was asked for.
    pub asked: Option<Filter>,
    pub rev: Rev,
    pub key: Option<String>,
    /// When the success answer left.
    pub acked: Option<At>,
    /// When the server said that it is true everywhere.
    pub enforced: Option<At>,
    /// Of a client only what this account allowed it.
    pub account: Option<AccountId>,
}

impl Act {
    /// One that spares nobody; its rev is that of its commit.
    pub fn of(door: Door, scope: Scope) -> Self {
        let (only, asked, key) = (None, None, None);
        Self { door, scope, except: None, only, asked, rev: Rev::ZERO, key, acked: None, enforced: None, account: None }
    }
    /// Whether it is about this grant of this client, or about what is above it.
    pub fn is_about_grant(&self, account: AccountId, session: SessionId, grant: GrantId, client: ClientId) -> bool {
        match self.scope {
            Scope::Client(ended) => ended == client && self.account.is_none_or(|only| only == account),
            _ => self.is_about(account, session, grant),
        }
    }
    fn is_about_token(&self, token: &TokenFact) -> bool {
        match self.scope {
            Scope::Token { token: ended, .. } => token.claims.tokens().any(|one| one == ended),
            _ => self.is_about_grant(token.account, token.session, token.grant, token.client),
        }
    }
    /// The proofs of those that a token came through and that it is about.
    fn about_hands<'a>(&'a self, token: &'a TokenFact) -> impl Iterator<Item = Rev> + 'a {
        let about = |hand: &&Hand| match self.scope {
            Scope::Client(ended) => ended == hand.client && self.account.is_none(),
            Scope::Account(ended) => ended == hand.account && self.except != Some(token.session),
            _ => false,
        };
        token.hands.iter().filter(about).map(|hand| hand.proof)
    }
    /// What of a token it is compared with.
    fn proof_of(&self, token: &TokenFact) -> Rev {
        if self.door == Door::ConsentWithdrawn { token.allowed } else { token.proof }
    }
    /// Whether it came between the proof that a token rests on and its facts, so that it should not be there.
    pub fn was_passed_by(&self, token: &TokenFact) -> bool {
        let passed = |proof: Rev| proof < self.rev && self.rev <= token.facts;
        self.is_about_token(token) && passed(self.proof_of(token)) || self.about_hands(token).any(passed)
    }
    /// Whether it is about this session of this account.
    pub fn is_about(&self, account: AccountId, session: SessionId, grant: GrantId) -> bool {
        self.except != Some(session)
            && self.only.as_ref().is_none_or(|only| only.contains(&session))
            && match self.scope {
                Scope::Session { session: ended, .. } => ended == session,
                Scope::Grant { grant: ended, .. } => ended == grant,
                Scope::Account(ended) => ended == account,
                Scope::Client(_) | Scope::Key(_) | Scope::Token { .. } => false,
                Scope::All => true,
            }
    }
    /// Whether it kills this token: its facts, or the proof of its session, are older.
    pub fn kills(&self, token: &TokenFact) -> bool {
        // The end of a key compares no rev: whoever has it writes any.
        self.scope == Scope::Key(token.key)
            || self.is_about_token(token) && (self.rev > token.facts || self.rev > self.proof_of(token))
            || self.about_hands(token).any(|proof| self.rev > proof)
    }
    /// Whether a blocked or deleted account is behind it.
    pub fn is_block(&self) -> bool {
        matches!(self.door, Door::Block | Door::Delete)
    }
}

/// One family's use, by who presented what.
#[derive(Debug, Clone, Default)]
pub struct FamilyFact {
    /// Successors by the presented number: the text, and when (database time, true time) it was last handed out.
    pub handed: BTreeMap<u64, (String, Time, At)>,
    /// The highest number that was rotated as the current one.
    pub rotated: Option<u64>,
    /// When its row was last written: it moved on, or was handed out.
    written: Option<At>,
    /// When it moved on although the clock of its windows was set while an exchange ran: a retry window that passes within a
    /// moment makes of two parallel presentations a retry that comes late, and no rule by that clock can tell.
    hurried: Option<At>,
    /// Whether a thief ever held a token of it.
    pub stolen: bool,
    /// Who made the family move outside of retry windows, in order: `true` for the thief.
    pub moves: Vec<bool>,
    /// What owner and thief presented last when they made it move.
    pub presented: [Option<u64>; 2],
}

impl FamilyFact {
    /// Its row was written at `at`, whatever was answered then. `set`: whether the database's clock was set since.
    pub fn written(&mut self, at: At, step: Step, window: i64, set: impl Fn(At) -> bool) {
        let soon = self.written.is_some_and(|last| at - last < 2 * window && set(last - 2 * window));
        match step {
            Step::HandOut => {}
            Step::Rotate | Step::Skip if soon => self.hurried = Some(at),
            // Somebody goes on by the newest token, and whatever was on its way then has come: two are one again.
            Step::Rotate if self.hurried.is_some_and(|then| at - then > 2 * window) => self.hurried = None,
            Step::Rotate | Step::Skip => {}
        }
        self.written = Some(at);
    }
    /// Whether its owner may hold a token that was passed over by a clock that was set.
    pub fn was_hurried(&self) -> bool {
        self.hurried.is_some()
    }
}

/// What is written of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The current token was presented, and a next one is made.
    Rotate,
    /// The predecessor was, late: an unused token is passed over.
    Skip,
    /// The current one was handed out again.
    HandOut,
}

impl Step {
    /// What a change writes, and of which family.
    pub fn of(change: &Change) -> Option<(GrantId, Self)> {
        match change {
            Change::HandOut { grant, .. } => Some((*grant, Self::HandOut)),
            Change::SetFamily { grant, counter, family, .. } => {
                let rotated = family.predecessor == Some(*counter);
                Some((*grant, if rotated { Self::Rotate } else { Self::Skip }))
            }
            _ => None,
        }
    }
}

/// Everything that happened.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// The whole log; position n is at index n − 1.
    pub log: Vec<Entry>,
    pub sessions: BTreeMap<SessionId, SessionFact>,
    pub tokens: Vec<TokenFact>,
    pub acts: Vec<Act>,
    /// The rules of revocations by filter, also those that were taken away.
    pub rules: Vec<Standing>,
    pub by_rev: BTreeMap<Rev, usize>,
    pub families: BTreeMap<GrantId, FamilyFact>,
    /// Codes by their digest.
    pub codes: BTreeMap<[u8; 32], CodeFact>,
    /// Devices' requests by their digest.
    pub devices: BTreeMap<[u8; 32], DeviceFact>,
    /// What came of codes, with the proof of the code.
    pub grants: BTreeMap<GrantId, Rev>,
    /// When what came of a device's request was allowed.
    pub allowed: BTreeMap<GrantId, Rev>,
    /// What each session's user has proven, the first one first: `auth_time` and `amr`.
    pub proofs: BTreeMap<SessionId, Vec<(i64, Vec<String>)>>,
    /// What came of codes: under whose session they were made, and how many of its proofs were on disk then.
    pub proven: BTreeMap<GrantId, (SessionId, usize)>,
    /// What the first token of each of these said.
    pub said: BTreeMap<GrantId, (i64, Vec<String>)>,
    /// What applications were ever granted under each session.
    pub under: BTreeMap<SessionId, Vec<(GrantId, ClientId)>>,
    /// When the committed head that readers see became which.
    pub heads: Vec<(At, Rev)>,
    /// Database time at which each entry was committed.
    pub committed_at: Vec<Time>,
}

impl Truth {
    /// The head that a reader saw at `at`.
    pub fn head_at(&self, at: At) -> Rev {
        let n = self.heads.partition_point(|(when, _)| *when <= at);
        n.checked_sub(1).map_or(Rev::ZERO, |i| self.heads[i].1)
    }
    /// Position of the newest committed entry.
    pub fn head(&self) -> Rev {
        Rev(self.log.len() as u64)
    }
    /// The entry at a position.
    pub fn entry(&self, rev: Rev) -> Option<&Entry> {
        self.log.get(usize::try_from(rev.0).ok()?.checked_sub(1)?)
    }
    /// The entry that killed a key.
    pub fn death(&self, key: KeyId) -> Option<Rev> {
        let entry = self.log.iter().find(|entry| entry.target == Target::Key(key));
        entry.map(|entry| entry.rev)
    }
    /// What the log up to `applied` says of a token by its claims: the newest `end`, the newest `stale`.
    pub fn verdict(&self, claims: &AccessClaims, applied: Rev) -> (Option<Rev>, Option<Rev>) {
        let (mut ended, mut stale) = (None, None);
        let from = usize::try_from(claims.rev.0).unwrap_or(usize::MAX).min(self.log.len());
        for entry in self.log[from..].iter().take_while(|entry| entry.rev <= applied) {
            if matches(entry, claims) {
                match entry.verb {
                    Verb::End => ended = Some(entry.rev),
                    _ => stale = Some(entry.rev),
                }
            }
        }
        (ended, stale)
    }
}

/// Whether an entry is about a token, revs aside.
pub fn matches(entry: &Entry, claims: &AccessClaims) -> bool {
    entry.except != Some(claims.sid)
        && match &entry.target {
            Target::Token(id) => claims.tokens().any(|token| token == *id),
            Target::Grant(id) => Some(*id) == claims.gid,
            Target::Session(id) => *id == claims.sid,
            Target::Account(id) => claims.accounts().any(|account| account == *id),
            Target::Client(id) => claims.clients().any(|client| client == *id),
            Target::All => true,
            Target::Key(_) | Target::Other { .. } => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: i64 = 4_000;

    /// The family after these writes; the clock was set at `set`.
    fn after(writes: &[(At, Step)], set: Option<At>) -> FamilyFact {
        let mut family = FamilyFact::default();
        for (at, step) in writes {
            family.written(*at, *step, WINDOW, |since| set.is_some_and(|set| set >= since && set <= *at));
        }
        family
    }

    #[test]
    fn only_a_clock_that_was_set_during_an_exchange_excuses() {
        use Step::{HandOut, Rotate, Skip};
        let twice = [(100_000, Rotate), (101_500, Skip)];
        assert!(after(&twice, Some(100_700)).was_hurried());
        // Between the two reads, which come before the writes.
        assert!(after(&twice, Some(99_000)).was_hurried());
        assert!(!after(&twice, None).was_hurried(), "a rule that skips within the window is found");
        assert!(!after(&twice, Some(60_000)).was_hurried());
        assert!(!after(&[(100_000, Rotate), (109_000, Skip)], Some(100_700)).was_hurried(), "the window had passed");
        assert!(!after(&[(100_000, Rotate), (101_500, HandOut)], Some(100_700)).was_hurried());
    }

    #[test]
    fn the_excuse_ends_when_the_owner_goes_on() {
        use Step::{Rotate, Skip};
        let with = |at, step| after(&[(100_000, Rotate), (101_500, Skip), (at, step)], Some(100_700)).was_hurried();
        assert!(!with(120_000, Rotate));
        assert!(with(120_000, Skip) && with(103_000, Rotate));
    }
}
