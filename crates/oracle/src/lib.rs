//! The judge of a cluster's history: what clients were told, and what verifiers then said of their tokens.
//!
//! It knows nothing of how Portcullis works. A history is written down by whoever drove the cluster, from outside, with the
//! times of one clock: when a call began, when it was answered, and with what. [`check`] holds the promises against it:
//!
//! - **Ended is ended.** Once an end was acknowledged, no verdict that begins later than the bound accepts a token that was handed
//!   out before the end was asked for; once it was said to be complete everywhere, no verdict that begins later does.
//! - **Nothing comes back.** A session that was ended is given no token by a refresh that begins after the acknowledgement.
//! - **The blocked get nothing.** No call that began after a block was acknowledged brings a token before it is asked to be lifted.
//! - **No collateral.** Nobody is told that a session has ended which nobody asked to end; nor that a token is revoked. An end that
//!   was acknowledged before a session began is no excuse. A refresh without an answer is one: the message may arrive when its
//!   client, which asked again, has gone on by two tokens, and is then what a thief's would be.
//!
//! What was asked for and not acknowledged may have happened or not: it allows both.
use portcullis_wire::{AccountId, SessionId};
use std::collections::BTreeMap;
use std::fmt;

/// Milliseconds of the driver's clock.
pub type At = i64;

/// Whom an end is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// One session.
    Session(SessionId),
    /// All sessions of an account.
    Account(AccountId),
    /// Every session.
    Everyone,
}

/// A token that a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// Whose.
    pub account: AccountId,
    /// Of which session.
    pub session: SessionId,
    /// When the call that brought it began, and was answered.
    pub asked: At,
    /// When it was answered.
    pub got: At,
}

/// A call that takes access away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// About whom.
    pub scope: Scope,
    /// A session that it spares.
    pub except: Option<SessionId>,
    /// When it began.
    pub asked: At,
    /// When success was answered; `None`: it was not.
    pub acknowledged: Option<At>,
    /// When it was answered that it is true everywhere.
    pub complete: Option<At>,
}

/// What a verifier said of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It may go on.
    Accepted,
    /// It was ended.
    Revoked,
    /// Not now: nothing certain is known, or it has expired, or its claims are out of date.
    NotNow,
}

/// A verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Which verifier.
    pub verifier: u32,
    /// Of which token: its place in [`History::tokens`].
    pub token: usize,
    /// When it began.
    pub began: At,
    /// What came of it.
    pub said: Said,
}

/// A refresh that was refused for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Whose.
    pub account: AccountId,
    /// Of which session.
    pub session: SessionId,
    /// When it was answered.
    pub answered: At,
}

/// A refresh that was not answered: whatever became of it may become of it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// Of which session.
    pub session: SessionId,
    /// When it began.
    pub asked: At,
}

/// An account that was blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// Whose.
    pub account: AccountId,
    /// When that was acknowledged.
    pub from: At,
    /// When somebody began to lift it; `None`: nobody did.
    pub until: Option<At>,
}

/// Everything that was seen.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Tokens, by sign-ins and refreshes.
    pub tokens: Vec<Token>,
    /// Ends.
    pub ends: Vec<End>,
    /// Verdicts.
    pub verdicts: Vec<Verdict>,
    /// Blocks. The end that goes with each stands among the ends.
    pub blocked: Vec<Blocked>,
    /// Sessions whose refresh was refused as ended.
    pub lost: Vec<Lost>,
    /// Refreshes without an answer.
    pub unanswered: Vec<Unanswered>,
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which one.
    pub promise: &'static str,
    /// How.
    pub detail: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.detail)
    }
}

/// What a history held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Verdicts that accepted.
    pub accepted: u64,
    /// Verdicts that accepted a token whose end had been acknowledged, within the bound.
    pub within_the_bound: u64,
    /// Verdicts that refused a token that was ended.
    pub revoked: u64,
    /// Verdicts of a token whose end had been acknowledged for longer than the bound: all of them refusals.
    pub beyond_the_bound: u64,
    /// Verdicts that were neither.
    pub not_now: u64,
    /// Ends that were acknowledged, and those of them that were complete.
    pub acknowledged: u64,
    /// See `acknowledged`.
    pub complete: u64,
}

impl End {
    fn is_about(&self, account: AccountId, session: SessionId) -> bool {
        self.except != Some(session)
            && match self.scope {
                Scope::Session(ended) => ended == session,
                Scope::Account(ended) => ended == account,
                Scope::Everyone => true,
            }
    }
}

/// Holds the promises against a history. `bound` in milliseconds.
///
/// # Errors
/// Every promise that was not kept, the first hundred of them.
pub fn check(history: &History, bound: At) -> Result<Summary, Vec<Broken>> {
    let (mut sum, mut broken) = (Summary::default(), Vec::new());
    let mut say = |promise, detail| {
        if broken.len() < 100 {
            broken.push(Broken { promise, detail });
        }
    };
    for end in &history.ends {
        sum.acknowledged += u64::from(end.acknowledged.is_some());
        sum.complete += u64::from(end.complete.is_some());
    }
    // Of each session: the ends that are about it.
    let mut about: BTreeMap<SessionId, Vec<&End>> = BTreeMap::new();
    for token in &history.tokens {
        about
            .entry(token.session)
            .or_insert_with(|| history.ends.iter().filter(|end| end.is_about(token.account, token.session)).collect());
    }
    // When the call began that brought a session's first token. What was acknowledged before that was about others.
    let mut begun: BTreeMap<SessionId, At> = BTreeMap::new();
    for token in &history.tokens {
        let at = begun.entry(token.session).or_insert(token.asked);
        *at = token.asked.min(*at);
    }
    let met = |end: &End, session: SessionId| {
        end.acknowledged.is_none_or(|at| begun.get(&session).is_none_or(|begun| *begun <= at))
    };
    let mut late: BTreeMap<SessionId, At> = BTreeMap::new();
    for one in &history.unanswered {
        let at = late.entry(one.session).or_insert(one.asked);
        *at = one.asked.min(*at);
    }
    let may_be_late = |session: SessionId, by: At| late.get(&session).is_some_and(|asked| *asked <= by);
    for verdict in &history.verdicts {
        let Some(token) = history.tokens.get(verdict.token) else { continue };
        let ends = || about[&token.session].iter().filter(|end| end.asked >= token.got);
        let long_dead = |end: &&End| end.acknowledged.is_some_and(|at| verdict.began > at + bound);
        sum.beyond_the_bound += u64::from(ends().any(long_dead));
        match verdict.said {
            Said::Accepted => {
                sum.accepted += 1;
                let after = |at: Option<At>, more: At| at.is_some_and(|at| verdict.began > at + more);
                if let Some(end) = ends().find(|end| after(end.complete, 0)) {
                    say("complete is complete", format!("{verdict:?} of {token:?} after {end:?}"));
                } else if let Some(end) = ends().find(|end| after(end.acknowledged, bound)) {
                    say("ended is ended", format!("{verdict:?} of {token:?} after {end:?}, B {bound}"));
                } else if ends().any(|end| after(end.acknowledged, 0)) {
                    sum.within_the_bound += 1;
                }
            }
            Said::Revoked => {
                sum.revoked += 1;
                // Whoever was asked about by then, whatever came of it.
                let asked = |end: &&&End| end.asked <= verdict.began + bound && met(end, token.session);
                let excused = may_be_late(token.session, verdict.began);
                if !excused && !about[&token.session].iter().any(|end| asked(&end)) {
                    say("no collateral", format!("{verdict:?} of {token:?}, which nobody has ended"));
                }
            }
            Said::NotNow => sum.not_now += 1,
        }
    }
    for token in &history.tokens {
        let during = |blocked: &&Blocked| {
            blocked.account == token.account
                && blocked.from < token.asked
                && blocked.until.is_none_or(|until| token.got < until)
        };
        if let Some(blocked) = history.blocked.iter().find(during) {
            say("the blocked get nothing", format!("{token:?} during {blocked:?}"));
        }
    }
    let mut born: BTreeMap<SessionId, At> = BTreeMap::new();
    for token in &history.tokens {
        let at = born.entry(token.session).or_insert(token.got);
        *at = token.got.min(*at);
    }
    for token in &history.tokens {
        // A sign-in after an end of the account begins a session that this end is not about.
        let lived = |end: &&&End| born[&token.session] <= end.asked;
        let before = |end: &&&End| end.acknowledged.is_some_and(|at| at < token.asked);
        if let Some(end) = about[&token.session].iter().filter(lived).find(before) {
            say("nothing comes back", format!("{token:?} after {end:?}"));
        }
    }
    for lost in &history.lost {
        let asked = |end: &&End| {
            end.is_about(lost.account, lost.session) && end.asked <= lost.answered && met(end, lost.session)
        };
        if !may_be_late(lost.session, lost.answered) && !history.ends.iter().any(|end| asked(&end)) {
            say("no collateral", format!("{lost:?}, which nobody has ended"));
        }
    }
    if broken.is_empty() { Ok(sum) } else { Err(broken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: At = 100;

    fn ids() -> (AccountId, SessionId) {
        (AccountId::from_bits(1), SessionId::from_bits(2))
    }

    fn history(said: Said, began: At, end: Option<End>) -> History {
        let (account, session) = ids();
        History {
            tokens: vec![Token { account, session, asked: 0, got: 10 }],
            ends: end.into_iter().collect(),
            verdicts: vec![Verdict { verifier: 0, token: 0, began, said }],
            blocked: Vec::new(),
            lost: Vec::new(),
            unanswered: Vec::new(),
        }
    }

    fn end(scope: Scope, acknowledged: Option<At>, complete: Option<At>) -> Option<End> {
        Some(End { scope, except: None, asked: 20, acknowledged, complete })
    }

    #[test]
    fn an_acknowledged_end_counts_after_the_bound_and_a_complete_one_at_once() {
        let (account, session) = ids();
        for scope in [Scope::Session(session), Scope::Account(account), Scope::Everyone] {
            for (acknowledged, complete, began, fine) in [
                (None, None, 900, true),
                (Some(30), None, 131, false),
                (Some(30), None, 130, true),
                (Some(30), Some(40), 41, false),
                (Some(30), Some(40), 40, true),
            ] {
                let told = check(&history(Said::Accepted, began, end(scope, acknowledged, complete)), BOUND);
                assert_eq!(told.is_ok(), fine, "{scope:?} {acknowledged:?} {complete:?} {began}: {told:?}");
            }
        }
        // What was handed out after the end was asked for may be of after it.
        let mut late = history(Said::Accepted, 900, end(Scope::Account(account), Some(30), Some(40)));
        (late.tokens[0].asked, late.tokens[0].got) = (15, 25);
        assert!(check(&late, BOUND).is_ok());
        let mut spared = history(Said::Accepted, 900, end(Scope::Everyone, Some(30), Some(40)));
        spared.ends[0].except = Some(session);
        assert!(check(&spared, BOUND).is_ok());
    }

    #[test]
    fn nobody_is_signed_out_whom_nobody_ended() {
        let (account, session) = ids();
        let other = Scope::Session(SessionId::from_bits(9));
        assert!(check(&history(Said::Revoked, 50, end(other, Some(30), None)), BOUND).is_err());
        assert!(check(&history(Said::Revoked, 50, end(Scope::Session(session), None, None)), BOUND).is_ok());
        assert!(check(&history(Said::NotNow, 50, None), BOUND).is_ok());
        let mut lost = history(Said::NotNow, 50, None);
        lost.lost.push(Lost { account, session, answered: 60 });
        assert!(check(&lost, BOUND).is_err());
        lost.ends.extend(end(Scope::Account(account), None, None));
        assert!(check(&lost, BOUND).is_ok());
    }

    #[test]
    fn what_was_acknowledged_before_a_session_began_does_not_excuse_its_loss() {
        let (account, session) = ids();
        for (acknowledged, begun, fine) in [(Some(30), 31, false), (Some(30), 30, true), (None, 900, true)] {
            for said in [Said::Revoked, Said::NotNow] {
                let mut seen = history(said, 950, end(Scope::Account(account), acknowledged, None));
                (seen.tokens[0].asked, seen.tokens[0].got) = (begun, begun + 10);
                if said == Said::NotNow {
                    seen.lost.push(Lost { account, session, answered: 960 });
                }
                assert_eq!(check(&seen, BOUND).is_ok(), fine, "{said:?} {acknowledged:?} {begun}");
            }
        }
    }

    #[test]
    fn a_refresh_without_an_answer_may_be_taken_for_a_thiefs_later() {
        let (account, session) = ids();
        for (asked, of, fine) in [(50, session, true), (61, session, false), (50, SessionId::from_bits(9), false)] {
            let mut lost = history(Said::NotNow, 50, None);
            lost.lost.push(Lost { account, session, answered: 60 });
            lost.unanswered.push(Unanswered { session: of, asked });
            assert_eq!(check(&lost, BOUND).is_ok(), fine, "{asked}");
            let mut revoked = history(Said::Revoked, 60, None);
            revoked.unanswered.push(Unanswered { session: of, asked });
            assert_eq!(check(&revoked, BOUND).is_ok(), fine, "{asked}");
        }
    }

    #[test]
    fn verdicts_beyond_the_bound_are_counted() {
        let (account, _) = ids();
        for (began, beyond) in [(130, 0), (131, 1)] {
            let told = check(&history(Said::Revoked, began, end(Scope::Account(account), Some(30), None)), BOUND);
            assert_eq!(told.unwrap().beyond_the_bound, beyond, "{began}");
        }
    }

    #[test]
    fn a_token_during_a_block_is_one_too_many() {
        let (account, _) = ids();
        for (from, until, fine) in
            [(-1, None, false), (-1, Some(10), true), (-1, Some(11), false), (0, None, true), (20, None, true)]
        {
            let mut seen = history(Said::NotNow, 50, None);
            seen.blocked.push(Blocked { account, from, until });
            assert_eq!(check(&seen, BOUND).is_ok(), fine, "{from} {until:?}");
        }
    }

    #[test]
    fn a_refresh_after_the_end_brings_nothing() {
        let (account, session) = ids();
        let mut back = history(Said::NotNow, 50, end(Scope::Session(session), Some(30), None));
        back.tokens.push(Token { account, session, asked: 31, got: 40 });
        assert_eq!(check(&back, BOUND).unwrap_err()[0].promise, "nothing comes back");
        back.tokens[1].asked = 29;
        assert!(check(&back, BOUND).is_ok());
    }
}
