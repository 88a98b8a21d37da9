//! The journal of blocks, deletions and changed passwords, a file apart from the database, for the day on which an older copy is restored
//! (DESIGN §4.5). The rules are in `domain::replay`.
//!
//! An act is committed first and written down a moment later, by a task of its own: a full or slow volume holds nobody up, and
//! what could not be written is tried again. What was committed just before a crash is found by the next start, in the audit
//! records of the entries that came after the newest line.
use crate::{App, AppError, high_water, real};
use portcullis_domain::changes::Changes;
use portcullis_domain::event::EventKind;
use portcullis_domain::kernel::By;
use portcullis_domain::replay::{self, Fate, Journal, Line, Touch, Unknown};
use portcullis_domain::view::Stamp;
use portcullis_store::{CommitError, EventFilter, Store};
use portcullis_wire::{AccountId, Rev};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How often it is written down how far the log has come, when that is far.
const ROUND: Duration = Duration::from_secs(60);
const FAR: u64 = 10_000;
/// Entries before the newest line whose acts a start looks at again: their lines may have been overtaken by it.
const OVERTAKEN: u64 = 100;
/// What could not be written is tried again after as long.
const AGAIN: Duration = Duration::from_secs(1);
/// Records that the search after a crash reads at a time.
const AT_ONCE: u32 = 500;
/// How often a step is decided anew while a draft is replayed into; nobody else writes there.
const MAX_STEPS: u32 = 8;

type Waiting = BTreeMap<AccountId, Touch>;

/// Accounts whose lines are still to be written.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    accounts: Mutex<Waiting>,
    news: Notify,
}

impl Pending {
    /// These were committed, or may have been. Bounded by the number of accounts.
    pub(crate) fn add(&self, accounts: impl IntoIterator<Item = (AccountId, Touch)>) {
        let mut waiting = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut more = false;
        for (account, touch) in accounts {
            let known = waiting.entry(account).or_insert(touch);
            *known = touch.max(*known);
            more = true;
        }
        if more {
            self.news.notify_one();
        }
    }

    fn take(&self) -> Waiting {
        std::mem::take(&mut *self.accounts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Accounts that are now what the journal says.
    pub done: u64,
    /// Accounts that were so already.
    pub already: u64,
    /// Accounts that the copy does not know: they signed up later.
    pub unknown: Vec<AccountId>,
    /// Whether the journal reaches back to the copy.
    pub reaches: bool,
}

/// Reads a journal; `None` when there is none.
///
/// # Errors
/// In words: it cannot be read, or is damaged, and where.
pub fn read(path: &Path) -> Result<Option<Journal>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
    };
    let wrong = |wrong: replay::Wrong| format!("{}, line {}: {}", path.display(), wrong.line, wrong.detail);
    let journal = replay::parse(&text).map_err(wrong)?;
    journal.log().map_err(wrong)?;
    Ok(Some(journal))
}

/// Does again, in a database that nobody serves, what the journal knows and the copy did not. `copy` is where that stood before
/// anything else was done to it.
///
/// # Errors
/// Faults. What was done until then stays done, and doing it again changes nothing.
pub async fn replay(store: &dyn Store, journal: &Journal, copy: &Stamp, by: &By<'_>) -> Result<Replayed, AppError> {
    let mut out = Replayed { reaches: journal.reaches(copy), ..Replayed::default() };
    for (id, unknown) in journal.unknown_to(copy) {
        match replay_one(store, id, &unknown, by).await? {
            None => out.unknown.push(id),
            Some(true) => out.done += 1,
            Some(false) => out.already += 1,
        }
    }
    Ok(out)
}

/// Whether something had to be done; `None`: there is no such account.
async fn replay_one(
    store: &dyn Store,
    id: AccountId,
    unknown: &Unknown<'_>,
    by: &By<'_>,
) -> Result<Option<bool>, AppError> {
    let mut changed = false;
    for _ in 0..MAX_STEPS {
        let Some(view) = store.load_account(id).await? else { return Ok(None) };
        let decision = replay::decide(&view, unknown, by, &mut real::RealChance);
        let fate = decision.outcome?;
        if !decision.changes.is_empty() {
            match store.commit(decision.changes).await {
                Ok(_) => changed = true,
                Err(CommitError::Conflict(_)) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        if fate != Fate::More {
            return Ok(Some(changed));
        }
    }
    Err(AppError::Overloaded)
}

impl App {
    /// Writes blocks and deletions down in `path` from now on, in `tasks`.
    ///
    /// # Errors
    /// The file is damaged, or of another log: nothing was changed.
    pub async fn keep_acts(&self, path: PathBuf, tasks: &mut tokio::task::JoinSet<()>) -> Result<(), AppError> {
        let stamp = self.store().stamp().await.map_err(|e| self.fault(e.into()))?;
        let at = path.clone();
        let begun = high_water::off_thread(move || Ok(begin(&at, &stamp))).await;
        let begun = begun
            .map_err(|error| AppError::Fault(error.to_string().into()))?
            .map_err(|what| AppError::Fault(what.into()))?;
        tasks.spawn(self.clone().write_acts(path, begun));
        Ok(())
    }

    /// What a commit did that the journal must hear of.
    pub(crate) fn touched(changes: &Changes) -> Vec<(AccountId, Touch)> {
        replay::touched(changes).collect()
    }

    async fn write_acts(self, path: PathBuf, begun: Begun) {
        let mut last = begun.last;
        while let Err(error) = self.find_missed(&begun).await {
            tracing::warn!(%error, "the journal of acts is not complete yet; it is tried again");
            tokio::time::sleep(AGAIN).await;
        }
        loop {
            let accounts = self.inner.acts.take();
            if let Err(error) = self.write_down(&path, &accounts, &mut last).await {
                tracing::warn!(%error, path = %path.display(), "the journal of acts could not be written; it is tried again");
                self.inner.acts.add(accounts);
                tokio::time::sleep(AGAIN).await;
                continue;
            }
            let _ = tokio::time::timeout(ROUND, self.inner.acts.news.notified()).await;
        }
    }

    /// Acts that were committed after the newest line was written: by the records of the entries since then.
    async fn find_missed(&self, begun: &Begun) -> Result<(), AppError> {
        let last = Rev(begun.last.0.saturating_sub(OVERTAKEN));
        let touch = |kind: EventKind| match kind {
            EventKind::AccountBlocked | EventKind::AccountDeleting | EventKind::AccountDeleted => Some(Touch::Status),
            EventKind::PasswordChanged | EventKind::PasswordReset => Some(Touch::Password),
            _ => None,
        };
        let filter = EventFilter { revocations: true, ..EventFilter::default() };
        let mut cursor = None;
        loop {
            let page = self.store().list_events(&filter, cursor, AT_ONCE).await?;
            let newer = page.rows.iter().take_while(|row| row.rev > Some(last));
            let missed = newer.filter_map(|row| {
                let act = row.event.account.zip(touch(row.event.kind))?;
                (begun.written.get(&act) < row.rev.as_ref()).then_some(act)
            });
            self.inner.acts.add(missed);
            let reached = page.rows.last().is_none_or(|row| row.rev <= Some(last));
            match page.rows.last() {
                Some(row) if page.more && !reached => cursor = Some(row.event.id),
                _ => return Ok(()),
            }
        }
    }

    async fn write_down(&self, path: &Path, accounts: &Waiting, last: &mut Rev) -> Result<(), AppError> {
        let mut lines = Vec::new();
        for (id, touch) in accounts {
            lines.extend(self.store().load_account(*id).await?.map(|view| Line::of(&view, *touch)));
        }
        if lines.is_empty() {
            let stamp = self.store().stamp().await?;
            if stamp.head.0 < last.0 + FAR {
                return Ok(());
            }
            lines.push(Line::begin(&stamp)); // so that the next start need not look so far
        }
        let newest = lines.iter().map(|line| line.rev).max().unwrap_or_default();
        let path = path.to_owned();
        let written = high_water::off_thread(move || append(&path, &lines)).await;
        written.map_err(|error| AppError::Fault(error.to_string().into()))?;
        *last = newest.max(*last);
        Ok(())
    }
}

/// A journal as it was found.
struct Begun {
    /// The position of its newest line.
    last: Rev,
    /// That of the newest line of each account, and of the newest that has a password.
    written: BTreeMap<(AccountId, Touch), Rev>,
}

impl Begun {
    fn of(journal: &Journal, last: Rev) -> Self {
        let mut written = BTreeMap::new();
        for line in &journal.lines {
            let Some(account) = line.account else { continue };
            written.insert((account, Touch::Status), line.rev);
            if line.password.is_some() {
                written.insert((account, Touch::Password), line.rev);
            }
        }
        Self { last, written }
    }
}

/// Makes the file ready to be appended to.
fn begin(path: &Path, stamp: &Stamp) -> Result<Begun, String> {
    let journal = read(path).map_err(|why| format!("{why}\nLook at it, and move it away: a new one begins then."))?;
    let unwritable = |error: std::io::Error| format!("{} cannot be written: {error}", path.display());
    let Some(journal) = journal.filter(|journal| journal.torn || !journal.lines.is_empty()) else {
        append(path, &[Line::begin(stamp)]).map_err(unwritable)?;
        return Ok(Begun::of(&Journal::default(), stamp.head));
    };
    if let Ok(Some(log)) = journal.log()
        && log != stamp.log
    {
        let (path, found) = (path.display(), stamp.log);
        return Err(format!(
            "{path} is the journal of {log}, and the database holds {found}. Put the right one of the two back; to begin a \
             new journal, move {path} away."
        ));
    }
    if journal.torn {
        let text = std::fs::read(path).map_err(unwritable)?;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let file = std::fs::OpenOptions::new().write(true).open(path).map_err(unwritable)?;
        file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(unwritable)?;
    }
    match journal.lines.iter().map(|line| line.rev).max() {
        Some(last) => Ok(Begun::of(&journal, last)),
        None => {
            append(path, &[Line::begin(stamp)]).map_err(unwritable)?;
            Ok(Begun::of(&journal, stamp.head))
        }
    }
}

fn append(path: &Path, lines: &[Line]) -> std::io::Result<()> {
    let mut text = String::new();
    for line in lines {
        text += &serde_json::to_string(line)?;
        text.push('\n');
    }
    let mut file = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let before = file.metadata()?.len();
    // Whole, or not at all: half a line in the middle would make the file unreadable.
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(before);
    }
    written
}
