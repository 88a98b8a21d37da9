//! What `commit_group_7` answers.
use super::Outcome;
use crate::cells::Fault;
use portcullis_domain::changes::{Committed, Conflict};
use portcullis_domain::throttle::Verdict;
use portcullis_store::CommitError;
use portcullis_wire::{Epoch, Rev, SessionId, Time};
use serde::Deserialize;

#[derive(Deserialize)]
struct Group {
    #[serde(default)]
    at: i64,
    acts: Option<Vec<Act>>,
    epoch: u32,
    /// The count of this node's groups, this one with them;
    commits: Option<u64>,
    /// or, where nothing was written, how many there are.
    found: Option<u64>,
}

/// What came of a group.
pub(super) enum Answer {
    /// It is on disk: one outcome for each act.
    Done { outcomes: Vec<Outcome>, epoch: Epoch, commits: u64 },
    /// Nothing was written: the database lacks what was acknowledged.
    Lost { epoch: Epoch, found: Option<u64> },
}

#[derive(Deserialize)]
struct Act {
    conflict: Option<String>,
    rev: Option<u64>,
    ended: Option<u64>,
    attempt: Option<String>,
    #[serde(default)]
    pruned: u64,
}

pub(super) fn wrong(what: &str) -> Fault {
    Fault::Row(format!("the answer to a commit is not understood: {what}"))
}

/// What was answered to `count` acts.
pub(super) fn read(rows: &[String], count: usize) -> Result<Answer, Fault> {
    let [text] = rows else { return Err(wrong("not one row")) };
    let group: Group = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    let epoch = Epoch(group.epoch);
    let (Some(acts), Some(commits)) = (group.acts, group.commits) else {
        return Ok(Answer::Lost { epoch, found: group.found });
    };
    if acts.len() != count {
        return Err(wrong("not one outcome for each act"));
    }
    let outcome = |act: Act| match act.conflict {
        Some(word) => match conflict(&word) {
            Some(conflict) => Ok(Err(CommitError::Conflict(conflict))),
            None => Err(wrong(&word)),
        },
        None => {
            let attempt = match act.attempt {
                Some(word) => Some(verdict(&word).ok_or_else(|| wrong(&word))?),
                None => None,
            };
            let Act { rev, ended, pruned, .. } = act;
            Ok(Ok(Committed { rev: rev.map(Rev), ended, attempt, pruned, at: Time(group.at) }))
        }
    };
    Ok(Answer::Done { outcomes: acts.into_iter().map(outcome).collect::<Result<_, _>>()?, epoch, commits })
}

fn conflict(word: &str) -> Option<Conflict> {
    Some(match word {
        "born_dead" => Conflict::BornDead,
        "moved" => Conflict::Moved,
        "email_taken" => Conflict::EmailTaken,
        "repeated" => Conflict::Repeated,
        "missing" => Conflict::Missing,
        "too_many" => Conflict::TooMany,
        "used" => Conflict::Used,
        other => {
            let session = other.strip_prefix("not_alive:")?;
            Conflict::NotAlive(SessionId::from_bits(u128::from_str_radix(session, 16).ok()?))
        }
    })
}

fn verdict(word: &str) -> Option<Verdict> {
    Some(match word {
        "throttled" => Verdict::Throttled,
        "stranger" => Verdict::Stranger,
        "network" => Verdict::Network,
        "device" => Verdict::Device,
        _ => return None,
    })
}
