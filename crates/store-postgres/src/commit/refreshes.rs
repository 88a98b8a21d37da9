//! A group of nothing but refreshes, in a call of its own: `commit_refreshes`, with a list for each column.
use super::Outcome;
use super::outcome::{Answer, wrong};
use crate::cells::{Fault, Id as _};
use portcullis_domain::changes::{Change, Changes, Committed, Conflict};
use portcullis_domain::ledger::Ledger;
use portcullis_store::{CommitError, StoreError};
use portcullis_wire::{Epoch, Time};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{Row as _, query};

/// A family's new state, or one more handing out of the one it has.
#[derive(Debug, Clone)]
pub(crate) struct Refresh {
    grant: [u8; 16],
    counter: i64,
    handed_at: i64,
    next: Option<Next>,
}

#[derive(Debug, Clone)]
struct Next {
    predecessor: Option<i64>,
    secret: [u8; 32],
    key: i64,
    epoch: i64,
    counter: i64,
    made_at: i64,
    handouts: i64,
    to_predecessor: Option<i64>,
}

impl Refresh {
    /// `None`: the changes are more than that. An error when they hold what cannot be kept.
    pub(super) fn of(changes: &Changes) -> Result<Option<Self>, StoreError> {
        // By name, so that nothing which may come is passed over. `idle_ttl` bears on sessions that are counted and on actors only.
        let Changes { expects, steps, events, idempotency, idle_ttl: _ } = changes;
        let ([step], true, true, None) = (steps.as_slice(), expects.is_empty(), events.is_empty(), idempotency) else {
            return Ok(None);
        };
        Ok(match step {
            Change::HandOut { grant, counter, at } => {
                Some(Self { grant: grant.blob(), counter: int(*counter)?, handed_at: at.0, next: None })
            }
            Change::SetFamily { grant, counter, predecessor, family } => Some(Self {
                grant: grant.blob(),
                counter: int(*counter)?,
                handed_at: family.handed_at.0,
                next: Some(Next {
                    predecessor: predecessor.map(int).transpose()?,
                    secret: family.secret,
                    key: family.key.0.into(),
                    epoch: family.epoch.0.into(),
                    counter: int(family.counter)?,
                    made_at: family.made_at.0,
                    handouts: family.handouts.into(),
                    to_predecessor: family.predecessor.map(int).transpose()?,
                }),
            }),
            _ => None,
        })
    }
}

fn int(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::new(format_args!("the number {number} cannot be kept")))
}

/// Refreshes of different grants in the order of their ids, in which all nodes lock them, each with its place in the group.
pub(super) struct Refreshes(Vec<(usize, Refresh)>);

impl Refreshes {
    /// `None`: two are of the same grant.
    pub(super) fn of(group: impl Iterator<Item = Refresh>) -> Option<Self> {
        let mut group: Vec<_> = group.enumerate().collect();
        group.sort_by_key(|(_, one)| one.grant);
        let apart = group.windows(2).all(|two| two[0].1.grant != two[1].1.grant);
        apart.then_some(Self(group))
    }

    fn column<T>(&self, of: impl Fn(&Refresh) -> T) -> Vec<T> {
        self.0.iter().map(|(_, one)| of(one)).collect()
    }

    fn next<T>(&self, of: impl Fn(&Next) -> T) -> Vec<Option<T>> {
        self.column(|one| one.next.as_ref().map(&of))
    }

    /// One statement, which is the transaction. The inner error: it was committed, and is not understood.
    pub(super) async fn commit(
        &self,
        db: &mut PgConnection,
        before: &Ledger,
        given: Option<Time>,
    ) -> Result<Result<Answer, Fault>, sqlx::Error> {
        const SQL: &str = "SELECT at, done, moved, commits, there, epoch \
             FROM commit_refreshes($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";
        let known = i64::try_from(before.told.count).unwrap_or(i64::MAX);
        let asked = query(SQL).bind(before.told.by.blob()).bind(known).bind(i64::from(before.epoch.0));
        let asked = asked.bind(given.map(|now| now.0)).bind(self.column(|one| one.grant));
        let asked = asked.bind(self.column(|one| one.counter));
        let asked = asked.bind(self.column(|one| one.next.as_ref().and_then(|next| next.predecessor)));
        let asked = asked.bind(self.next(|next| next.secret)).bind(self.next(|next| next.key));
        let asked = asked.bind(self.next(|next| next.epoch)).bind(self.next(|next| next.counter));
        let asked = asked.bind(self.next(|next| next.made_at)).bind(self.column(|one| one.handed_at));
        let asked = asked.bind(self.next(|next| next.handouts));
        let asked = asked.bind(self.column(|one| one.next.as_ref().and_then(|next| next.to_predecessor)));
        // All rows, so that what comes after the last one, the end of the transaction, is waited for.
        let rows = asked.fetch_all(db).await?;
        Ok(self.answer(&rows))
    }

    fn answer(&self, rows: &[PgRow]) -> Result<Answer, Fault> {
        let [row] = rows else { return Err(wrong("not one row")) };
        let places = |column: usize| row.try_get::<Option<Vec<i32>>, _>(column).map(Option::unwrap_or_default);
        let (at, done, moved) = (row.try_get::<Option<i64>, _>(0)?, places(1)?, places(2)?);
        let count =
            |number: Option<i64>| number.map(u64::try_from).transpose().map_err(|_| wrong("a count below zero"));
        let (commits, there) = (count(row.try_get(3)?)?, count(row.try_get(4)?)?);
        let epoch = Epoch(u32::try_from(row.try_get::<i64, _>(5)?).map_err(|_| wrong("the epoch"))?);
        let Some(commits) = commits else { return Ok(Answer::Lost { epoch, found: there }) };
        let at = Time(at.ok_or_else(|| wrong("no time"))?);
        let mut outcomes = vec![Err(CommitError::Conflict(Conflict::Missing)); self.0.len()];
        let mut put = |place: i32, outcome: Outcome| {
            let index = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
            let (index, _) = index.and_then(|index| self.0.get(index)).ok_or_else(|| wrong("a place"))?;
            outcomes[*index] = outcome;
            Ok::<(), Fault>(())
        };
        for place in moved {
            put(place, Err(CommitError::Conflict(Conflict::Moved)))?;
        }
        for place in done {
            put(place, Ok(Committed { rev: None, ended: None, attempt: None, pruned: 0, at }))?;
        }
        Ok(Answer::Done { outcomes, epoch, commits })
    }
}
