//! Rows that were read before, for whoever looks and writes nothing ([`portcullis_store::Store::peek_refresh`]).
//!
//! Commits that change what such a row says are counted. Of each session, grant and account (by 1,024 places that they share), and of what
//! concerns all, the last such commit's number is known, and a row is given away as long as none of those that concern it is younger than
//! the count was before the row was read. While such a commit is under way its places hold [`UNDER_WAY`], which is younger than
//! everything, and they get its number after the COMMIT, before anybody is answered; the log's head is told before the COMMIT. So whoever
//! has been told of a change, or has read it, never gets a row from before it (docs/decisions/0058-kept-rows.md). After a commit that failed
//! everybody reads until one succeeds: what became of it is not known before.
//!
//! What may not happen: a row with a number that was not read before the row was; a change that shows and has no place in [`shown_by`]; a
//! secret in a row that is kept.
use arc_swap::ArcSwapOption;
use portcullis_domain::changes::{Change, Revoke};
use portcullis_domain::model::Client;
use portcullis_domain::view::RefreshView;
use portcullis_store::{Peeked, StoreError};
use portcullis_wire::{AccountId, ClientId, GrantId, Rev, SessionId, Target, Verb};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

/// Places for grants, each with everything above it: some 13 MB when all are taken.
const GRANTS: usize = 8_192;
/// Places for clients.
const CLIENTS: usize = 512;
/// Places for when sessions, grants and accounts last changed.
const CHANGED: usize = 1_024;
/// Places that are looked at after each commit, for what does not hold any more.
const SWEPT: usize = 16;
/// Younger than every row.
const UNDER_WAY: u64 = u64::MAX;

pub(crate) struct Kept {
    /// Twice the commits that were made; odd while one is under way, and while nobody knows what became of the last one.
    generation: AtomicU64,
    /// How many commits have changed what rows show.
    count: AtomicU64,
    /// The number of the last that concerned all.
    all: AtomicU64,
    /// The number of the last that concerned whoever has this place.
    changed: Vec<AtomicU64>,
    /// Position of the newest entry of the log that was committed.
    head: AtomicU64,
    /// How many places have been looked at for what does not hold.
    swept: AtomicUsize,
    grants: Table<RefreshView>,
    clients: Table<Client>,
}

/// Whom a change concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concerns {
    Session(SessionId),
    Grant(GrantId),
    Account(AccountId),
    All,
}

/// What is kept.
trait Row {
    /// Whom it is of, besides all: it holds until a commit concerns one of them.
    fn is_of(&self) -> [Option<Concerns>; 3];
    /// Whether it is kept at all.
    fn may_be_kept(&self) -> bool {
        true
    }
}

impl Row for RefreshView {
    fn is_of(&self) -> [Option<Concerns>; 3] {
        [Concerns::Session(self.session.id), Concerns::Grant(self.grant.id), Concerns::Account(self.account.id)]
            .map(Some)
    }
    /// Rules that stand are many words, and are gone soon.
    fn may_be_kept(&self) -> bool {
        self.standing.is_none()
    }
}

impl Row for Client {
    fn is_of(&self) -> [Option<Concerns>; 3] {
        [None; 3]
    }
}

impl Kept {
    /// Nothing yet; `head`: the position of the newest entry of the log.
    pub(crate) fn new(head: Rev) -> Self {
        Self {
            generation: AtomicU64::new(0),
            count: AtomicU64::new(0),
            all: AtomicU64::new(0),
            changed: (0..CHANGED).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(head.0),
            swept: AtomicUsize::new(0),
            grants: Table::new(GRANTS),
            clients: Table::new(CLIENTS),
        }
    }

    /// A grant with everything above it, by `read` where it is not kept.
    pub(crate) fn refresh(
        &self,
        id: GrantId,
        read: impl FnOnce() -> Result<Option<RefreshView>, StoreError>,
    ) -> Result<Option<Arc<RefreshView>>, StoreError> {
        self.row(&self.grants, id.bits(), || Ok(read()?.map(Peeked::lean)))
    }

    /// A client, by `read` where it is not kept.
    pub(crate) fn client(
        &self,
        id: ClientId,
        read: impl FnOnce() -> Result<Option<Client>, StoreError>,
    ) -> Result<Option<Arc<Client>>, StoreError> {
        self.row(&self.clients, id.bits(), read)
    }

    /// The generation of the database: as long as it is the same, what is read is the same. `None` while a commit is under way, and while
    /// nobody knows what became of the last one.
    pub(crate) fn quiet(&self) -> Option<u64> {
        Some(self.generation.load(SeqCst)).filter(|generation| generation % 2 == 0)
    }

    /// Position of the newest entry of the log that somebody may have been told of.
    pub(crate) fn head(&self) -> Rev {
        Rev(self.head.load(SeqCst))
    }

    fn row<T: Row>(
        &self,
        table: &Table<T>,
        id: u128,
        read: impl FnOnce() -> Result<Option<T>, StoreError>,
    ) -> Result<Option<Arc<T>>, StoreError> {
        if let Some((number, row)) = table.get(id)
            && self.holds(&*row, number)
        {
            return Ok(Some(row));
        }
        let number = self.count.load(SeqCst);
        let row = read()?.map(Arc::new);
        table.put(id, row.clone().filter(|row| row.may_be_kept()).map(|row| (number, row)));
        Ok(row)
    }

    /// Whether the row is what the database says. What concerns all is looked at last: its number rises before places are emptied, so that
    /// a row from before a commit of which nobody knew is seen to be one.
    fn holds(&self, row: &impl Row, number: u64) -> bool {
        let mut whom = row.is_of().into_iter().flatten().chain([Concerns::All]);
        whom.all(|who| self.last(who).load(SeqCst) <= number)
    }

    /// Gives up what does not hold any more, in a few places after each commit: nobody may ask about it again.
    fn sweep(&self) {
        let from = self.swept.fetch_add(SWEPT, SeqCst);
        self.grants.sweep(from, |row, number| self.holds(row, number));
        self.clients.sweep(from, |row, number| self.holds(row, number));
    }

    fn last(&self, who: Concerns) -> &AtomicU64 {
        let bits = match who {
            Concerns::Session(id) => id.bits(),
            Concerns::Grant(id) => id.bits(),
            Concerns::Account(id) => id.bits(),
            Concerns::All => return &self.all,
        };
        self.changed.get(place(bits, CHANGED)).unwrap_or(&self.all)
    }

    /// Makes a commit that concerns these, after which the newest entry of the log has this position. The writer alone calls this, and
    /// [`Kept::unknown`].
    pub(crate) fn around<T, E>(
        &self,
        whom: Vec<Concerns>,
        head: Rev,
        commit: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.generation.fetch_or(1, SeqCst);
        let before = self.head.swap(head.0, SeqCst);
        whom.iter().for_each(|who| self.last(*who).store(UNDER_WAY, SeqCst));
        let under_way = UnderWay { kept: self, whom, before, made: false };
        let made = commit()?;
        under_way.made();
        self.generation.fetch_add(1, SeqCst);
        self.sweep();
        Ok(made)
    }

    /// Nobody knows what the database says, until a commit is made.
    pub(crate) fn unknown(&self) {
        self.generation.fetch_or(1, SeqCst);
        self.all.store(UNDER_WAY, SeqCst);
    }
}

/// A commit that is under way. Without [`UnderWay::made`] nobody knows what became of it.
struct UnderWay<'a> {
    kept: &'a Kept,
    whom: Vec<Concerns>,
    /// The head before it.
    before: u64,
    made: bool,
}

impl UnderWay<'_> {
    /// It was made, and nobody was told yet.
    fn made(mut self) {
        self.made = true;
        let Self { kept, whom, .. } = &self;
        let all = kept.all.load(SeqCst) == UNDER_WAY; // this one concerns all, or what went before is not known
        if whom.is_empty() && !all {
            return;
        }
        let number = kept.count.load(SeqCst) + 1;
        if all {
            // All that was read before is older than this; whom a commit that failed concerned nobody remembers.
            kept.all.store(number, SeqCst);
            kept.changed.iter().for_each(|last| last.store(0, SeqCst));
        }
        whom.iter().filter(|who| **who != Concerns::All).for_each(|who| kept.last(*who).store(number, SeqCst));
        kept.count.store(number, SeqCst);
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.made {
            self.kept.unknown();
            self.kept.head.store(self.before, SeqCst); // rows that are read bring the one that they are of
        }
    }
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("count", &self.count).finish_non_exhaustive()
    }
}

/// A row, and the count from before it was read.
struct Place<T> {
    id: u128,
    number: u64,
    row: Arc<T>,
}

/// One place for each id, which it may share with others: the last one that was read stands there.
struct Table<T>(Vec<ArcSwapOption<Place<T>>>);

impl<T> Table<T> {
    fn new(places: usize) -> Self {
        Self((0..places).map(|_| ArcSwapOption::empty()).collect())
    }

    fn get(&self, id: u128) -> Option<(u64, Arc<T>)> {
        let kept = self.0.get(place(id, self.0.len()))?.load();
        kept.as_ref().filter(|kept| kept.id == id).map(|kept| (kept.number, kept.row.clone()))
    }

    /// Empties the next few places of what does not hold.
    fn sweep(&self, from: usize, holds: impl Fn(&T, u64) -> bool) {
        for place in (from..from + SWEPT).filter_map(|at| self.0.get(at % self.0.len().max(1))) {
            if place.load().as_ref().is_some_and(|kept| !holds(&kept.row, kept.number)) {
                place.store(None);
            }
        }
    }

    /// Puts a row in its place, or nothing.
    fn put(&self, id: u128, row: Option<(u64, Arc<T>)>) {
        if let Some(place) = self.0.get(place(id, self.0.len())) {
            place.store(row.map(|(number, row)| Arc::new(Place { id, number, row })));
        }
    }
}

/// By both halves: where one is a time, the other is random bits.
fn place(id: u128, places: usize) -> usize {
    usize::try_from((id ^ (id >> 64)) % places.max(1) as u128).unwrap_or_default()
}

/// Whom the changes of a commit concern, of those whose rows may be kept.
pub(crate) fn concerned<'a>(steps: impl Iterator<Item = &'a Change>) -> Vec<Concerns> {
    steps.flat_map(shown_by).flatten().collect()
}

/// By whose rows a change shows: of accounts, sessions, grants and clients that are there. By nobody's: uses, which a kept row may be behind
/// of; new rows, which nobody has read; rows of other kinds; and entries of the log that mark no row, for the log is looked at besides.
fn shown_by(change: &Change) -> [Option<Concerns>; 2] {
    use {Change as C, Concerns as W};
    let one = |who| [Some(who), None];
    let (all, nobody) = (one(W::All), [None, None]);
    match change {
        C::RenameSession { session, .. } | C::SetAuthTime { session, .. } | C::SetCookie { session, .. } => {
            one(W::Session(*session))
        }
        C::Unprove { session, grant } => [Some(W::Session(*session)), grant.map(W::Grant)],
        C::SetNetwork { grant, .. } => one(W::Grant(*grant)),
        C::SetStatus { account, .. }
        | C::SetProfile { account, .. }
        | C::SetPassword { account, .. }
        | C::SetEmail { account, .. } => one(W::Account(*account)),
        C::Revoke(Revoke { verb: Verb::End, target, .. }) => match target {
            Target::Session(session) => one(W::Session(*session)),
            Target::Grant(grant) => one(W::Grant(*grant)),
            Target::Account(account) => one(W::Account(*account)),
            Target::Token(_) => nobody,
            _ => all,
        },
        C::Revoke(Revoke { verb: Verb::Stale | Verb::Key, .. }) => nobody,
        C::Revoke(_) | C::InsertJob(_) | C::StepJob(_) | C::Refound { .. } => all,
        C::SetClientDisabled { .. } | C::UpdateClient(_) | C::PruneClients { .. } => all,
        C::ForgetSessionAddresses { .. } | C::PruneSessions { .. } | C::PruneGrants { .. } => all,
        // Uses.
        C::SetFamily { .. } | C::HandOut { .. } | C::Seen(_) => nobody,
        // New ones.
        C::InsertAccount(_) | C::InsertSession(_) | C::InsertGrant(_) | C::InsertClient(_) => nobody,
        // Other rows, and of the counter's what no view is judged by.
        C::RaiseHorizon(_) | C::RaiseFloor(_) | C::SetBound(_) | C::SetRun(_) => nobody,
        C::InsertInstance(_) | C::UpdateInstance(_) | C::RemoveInstances(_) => nobody,
        C::InsertKey(_) | C::SetKeyTimes { .. } | C::SetKeySealed { .. } => nobody,
        C::TakeAttempt(_) | C::GiveBack { .. } | C::KnowNetwork { .. } | C::PruneAttempts { .. } | C::Draw { .. } => {
            nobody
        }
        C::PutConsent(_) | C::WithdrawConsent { .. } | C::PutMemory { .. } | C::SetUnused { .. } => nobody,
        C::InsertTicket(_) | C::UpdateTicket(_) | C::UseTicket { .. } | C::PruneTickets { .. } => nobody,
        C::CrowdOutTickets { .. } | C::InsertOrigin(_) => nobody,
        C::InsertMessage(_) | C::UpdateMessage(_) | C::StepNotice(_) | C::PruneMessages { .. } => nobody,
        C::InsertLink(_) | C::UseLink { .. } | C::SignOutLink { .. } | C::RemoveLink { .. } => nobody,
        C::InsertWebhook(_) | C::UpdateWebhook(_) | C::RemoveWebhook(_) | C::StepFollower(_) => nobody,
        C::BeginChain(_) | C::Seal(_) | C::PruneChain(_) | C::BeginAnew(_) | C::Attest { .. } => nobody,
        C::SetChainKey { .. } | C::ForgetEventAddresses { .. } | C::EraseRecords { .. } => nobody,
        C::ForgetJobs(_) | C::ForgetIdempotency(_) => nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_store::conformance::client;

    /// Whether that client had to be read.
    fn reads(kept: &Kept, n: u128) -> bool {
        let mut read = false;
        let row = kept.client(ClientId::from_bits(n), || {
            read = true;
            Ok(Some(client(ClientId::from_bits(n))))
        });
        assert_eq!(row.unwrap().unwrap().id, ClientId::from_bits(n));
        read
    }

    fn made(kept: &Kept, whom: &[Concerns], head: Rev, meanwhile: impl FnOnce()) {
        let done: Result<(), ()> = kept.around(whom.to_vec(), head, || {
            meanwhile();
            Ok(())
        });
        done.unwrap();
    }

    #[test]
    fn rows_are_kept_until_a_commit_concerns_them() {
        let kept = Kept::new(Rev(3));
        assert!(reads(&kept, 1) && !reads(&kept, 1) && !reads(&kept, 1));
        let other = Concerns::Account(AccountId::from_bits(1));
        made(&kept, &[], Rev(4), || assert!(!reads(&kept, 1), "a group that concerns nobody"));
        made(&kept, &[other], Rev(5), || assert!(!reads(&kept, 1), "one that concerns another"));
        assert!(!reads(&kept, 1));
        made(&kept, &[Concerns::All], Rev(5), || {
            assert!(reads(&kept, 1) && reads(&kept, 1), "while it is under way everybody reads");
        });
        assert!(reads(&kept, 1), "what was read before does not count");
        assert!(!reads(&kept, 1));
    }

    #[test]
    fn the_head_is_told_before_anybody_can_read_it() {
        let kept = Kept::new(Rev(3));
        made(&kept, &[], Rev(4), || assert_eq!(kept.head(), Rev(4)));
        assert_eq!(kept.head(), Rev(4));
        assert_eq!(kept.around(vec![], Rev(5), || Err::<(), _>(kept.head())), Err(Rev(5)));
        assert_eq!(kept.head(), Rev(4));
    }

    #[test]
    fn what_does_not_hold_is_given_up_though_nobody_asks_again() {
        let kept = Kept::new(Rev::ZERO);
        let places = || kept.clients.0.iter().filter(|place| place.load().is_some()).count();
        (0..40).for_each(|n| assert!(reads(&kept, n)));
        (0..CLIENTS).for_each(|_| made(&kept, &[], Rev::ZERO, || {}));
        assert_eq!(places(), 40, "what holds stays");
        made(&kept, &[Concerns::All], Rev::ZERO, || {});
        (0..CLIENTS / SWEPT).for_each(|_| made(&kept, &[], Rev::ZERO, || {}));
        assert_eq!(places(), 0);
    }

    #[test]
    fn while_nobody_knows_everybody_reads() {
        let kept = Kept::new(Rev::ZERO);
        let whom = Concerns::Session(SessionId::from_bits(5));
        let fails: [&dyn Fn(); 3] = [
            &|| assert!(kept.around(vec![whom], Rev(1), || Err::<(), ()>(())).is_err()),
            &|| {
                let panics = || kept.around(vec![whom], Rev(1), || -> Result<(), ()> { panic!("as the test wants") });
                assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).is_err());
            },
            &|| kept.unknown(),
        ];
        for fail in fails {
            reads(&kept, 1);
            assert!(!reads(&kept, 1));
            fail();
            assert!(reads(&kept, 1) && reads(&kept, 1));
            made(&kept, &[], Rev::ZERO, || assert!(reads(&kept, 1)));
            assert!(reads(&kept, 1) && !reads(&kept, 1));
            assert_eq!(kept.last(whom).load(SeqCst), 0, "whom the lost one concerned is kept again");
        }
    }

    #[test]
    fn a_row_that_was_read_while_one_was_made_is_read_again() {
        let kept = Kept::new(Rev::ZERO);
        let row = kept.client(ClientId::from_bits(1), || {
            made(&kept, &[Concerns::All], Rev::ZERO, || {});
            Ok(Some(client(ClientId::from_bits(1))))
        });
        assert!(row.unwrap().is_some() && reads(&kept, 1));
        // The row may be from before the commit.
        made(&kept, &[Concerns::All], Rev::ZERO, || assert!(reads(&kept, 1)));
        assert!(reads(&kept, 1) && !reads(&kept, 1));
    }

    #[test]
    fn what_may_not_be_kept_is_read_each_time_and_puts_nothing_in_its_place() {
        struct Long(bool);
        impl Row for Long {
            fn is_of(&self) -> [Option<Concerns>; 3] {
                [None; 3]
            }
            fn may_be_kept(&self) -> bool {
                !self.0
            }
        }
        let (kept, table) = (Kept::new(Rev::ZERO), Table::new(1));
        let reads = |long| {
            let mut read = false;
            let row = kept.row(&table, 7, || {
                read = true;
                Ok(Some(Long(long)))
            });
            assert!(row.unwrap().is_some());
            read
        };
        assert!(reads(true) && reads(true) && reads(false) && !reads(true));
        made(&kept, &[Concerns::All], Rev::ZERO, || {});
        assert!(reads(true) && table.get(7).is_none());
    }

    #[test]
    fn what_is_not_there_is_not_kept_and_places_are_shared() {
        let kept = Kept::new(Rev::ZERO);
        assert!(kept.client(ClientId::from_bits(1), || Ok(None)).unwrap().is_none());
        assert!(reads(&kept, 1));
        let neighbour = 1 + CLIENTS as u128;
        assert!(reads(&kept, neighbour) && reads(&kept, 1), "one place, the last one stands there");
        assert!(kept.client(ClientId::from_bits(2), || Err(StoreError::new("no disk"))).is_err());
        assert!(reads(&kept, 2));
    }
}
