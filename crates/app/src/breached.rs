//! Passwords that are known to be stolen: a file of digests that an operator gives, as the downloader of Have I Been Pwned writes it.
//! Lines of the SHA-1 of a password in hexadecimal and how often it was seen, sorted by digest; some 40 GB. None is shipped.
//!
//! Nothing of it is held in memory: a look-up is a binary search of some 25 reads, on the blocking pool, of a few at once. What takes too
//! long, or meets a line that is none, is not known to be stolen, and said in the log: a list is a help, and keeps nobody out by being slow.
//!
//! The list is of SHA-1, so that is what is computed here; it is kept nowhere.
use crate::few::Few;
use crate::{App, AppError, real};
use arc_swap::ArcSwapOption;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use portcullis_domain::Refused;
use portcullis_wire::SecretString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The longest line: a digest, a colon, a number of nineteen digits and two bytes for its end.
const MAX_LINE: usize = 64;
/// What is left of the search is read as it is.
const BLOCK: u64 = 4096;
/// A file of so many bytes is read as a whole when it is opened; of a larger one its beginning, its end and [`SAMPLES`] lines.
const WHOLE: u64 = 16 << 20;
const SAMPLES: u64 = 1000;
const CHUNK: u64 = 64 << 10;
/// So many look-ups at once; further ones wait.
const AT_ONCE: usize = 8;
/// And no longer than this, from the first moment.
const PATIENCE: Duration = Duration::from_secs(2);

type Sha1 = [u8; 20];

/// Which file it is, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Device and inode.
    pub file: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

impl State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Of the file at this path now.
    ///
    /// # Errors
    /// It is not there, or cannot be looked at.
    pub fn at(path: &Path) -> Result<Self, String> {
        std::fs::metadata(path).map(|metadata| Self::of(&metadata)).map_err(|error| format!("cannot be read: {error}"))
    }
}

/// A list of stolen passwords.
#[derive(Debug)]
pub struct List {
    file: File,
    state: State,
}

impl List {
    /// Opens a list and looks at it: whether it has the lines that are expected, and is sorted. Of a large one that is a sample.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open(path: &Path) -> Result<Self, String> {
        Self::open_up_to(path, WHOLE)
    }

    /// The same, with the size up to which all lines are looked at.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn open_up_to(path: &Path, whole: u64) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot be read: {error}");
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err("is no file".into());
        }
        let list = Self { file, state: State::of(&metadata) };
        list.check(whole).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => error.to_string(),
            _ => cannot(error),
        })?;
        Ok(list)
    }

    /// Which file it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the list has this digest.
    ///
    /// # Errors
    /// It cannot be read, or has a line that is none.
    pub fn has(&self, wanted: &Sha1) -> io::Result<bool> {
        // The line, if it is there, begins at `low` or later and before `high`.
        let (mut low, mut high) = (0, self.state.size);
        while high - low > BLOCK {
            let (start, end, found) = self.line_from(low + (high - low) / 2)?;
            match found.cmp(wanted) {
                std::cmp::Ordering::Equal => return Ok(true),
                std::cmp::Ordering::Less => low = end,
                std::cmp::Ordering::Greater => high = start,
            }
        }
        let bytes = self.read(low, high - low)?;
        for line in lines(&bytes) {
            if parse(line)? == *wanted {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first line that begins at `at` or later: where it begins, where the next one does, and its digest.
    fn line_from(&self, at: u64) -> io::Result<(u64, u64, Sha1)> {
        let from = at.saturating_sub(1);
        let bytes = self.read(from, 2 * MAX_LINE as u64 + 1)?;
        let start = match at {
            0 => 0,
            _ => bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| no_line(&bytes))? + 1,
        };
        let rest = bytes.get(start..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let begins = from + start as u64;
        Ok((begins, begins + length as u64 + 1, parse(&rest[..length])?))
    }

    /// Up to so many bytes from there on; fewer where the file ends.
    fn read(&self, at: u64, most: u64) -> io::Result<Vec<u8>> {
        let most = usize::try_from(most.min(self.state.size.saturating_sub(at))).unwrap_or(0);
        let mut bytes = vec![0; most];
        let mut have = 0;
        while have < most {
            match self.file.read_at(&mut bytes[have..], at + have as u64) {
                Ok(0) => break,
                Ok(more) => have += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(have);
        Ok(bytes)
    }

    fn check(&self, whole: u64) -> io::Result<()> {
        let size = self.state.size;
        if size == 0 {
            return Err(wrong("is empty"));
        }
        let mut last = None;
        if size <= whole.max(2 * CHUNK) {
            self.in_order(0, size, &mut last)?;
            return Ok(());
        }
        let head = self.in_order(0, CHUNK, &mut last)?;
        let tail = self.line_from(size - CHUNK)?.0;
        for n in 1..SAMPLES {
            let at = size / SAMPLES * n;
            if at < head || at >= tail {
                continue;
            }
            let (start, _, found) = self.line_from(at)?;
            if start < tail {
                after(&mut last, found, start)?;
            }
        }
        self.in_order(tail, size, &mut last)?;
        Ok(())
    }

    /// Looks at all lines from `from`, where one begins, that begin before `to`; where the next one does.
    fn in_order(&self, from: u64, to: u64, last: &mut Option<Sha1>) -> io::Result<u64> {
        let mut at = from;
        while at < to.min(self.state.size) {
            let bytes = self.read(at, CHUNK)?;
            let is_end = at + bytes.len() as u64 >= self.state.size;
            // The last line of a chunk may go on in the next one.
            let full = match bytes.iter().rposition(|byte| *byte == b'\n') {
                Some(end) if !is_end => end + 1,
                _ if is_end => bytes.len(),
                _ => return Err(no_line(&bytes)),
            };
            let mut begins = at;
            for line in bytes[..full].split_inclusive(|byte| *byte == b'\n') {
                let found = parse(line.strip_suffix(b"\n").unwrap_or(line)).map_err(|error| named(&error, begins))?;
                after(last, found, begins)?;
                begins += line.len() as u64;
            }
            at = begins;
        }
        Ok(at)
    }
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn named(error: &io::Error, at: u64) -> io::Error {
    io::Error::new(error.kind(), format!("{error} (at byte {at})"))
}

fn no_line(bytes: &[u8]) -> io::Error {
    match bytes.is_empty() {
        true => wrong("became shorter while it was read"),
        false => wrong("has a line that is not `SHA1:COUNT`, 40 hexadecimal digits and how often it was seen"),
    }
}

fn after(last: &mut Option<Sha1>, found: Sha1, at: u64) -> io::Result<()> {
    if last.replace(found).is_some_and(|last| last >= found) {
        return Err(wrong(format!("is not sorted by digest (at byte {at}): get the list that is ordered by hash")));
    }
    Ok(())
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// The digest of a line without its end.
fn parse(line: &[u8]) -> io::Result<Sha1> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (hash, count) = match line.iter().position(|byte| *byte == b':') {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    };
    if hash.len() == 32 && hash.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong("has digests of 32 digits, which are NTLM's: get the list of SHA-1 digests"));
    }
    let counts = count.is_none_or(|count| (1..=19).contains(&count.len()) && count.iter().all(u8::is_ascii_digit));
    if hash.len() != 40 || !counts {
        return Err(no_line(line));
    }
    let mut out = [0; 20];
    for (byte, pair) in out.iter_mut().zip(hash.chunks_exact(2)) {
        let digit = |n: usize| char::from(pair[n]).to_digit(16).ok_or_else(|| no_line(line));
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).unwrap_or(0);
    }
    Ok(out)
}

/// The list in force, and how it is asked.
pub(crate) struct Breached {
    list: ArcSwapOption<List>,
    places: Arc<Semaphore>,
    told: Few,
}

impl Default for Breached {
    fn default() -> Self {
        Self { list: ArcSwapOption::empty(), places: Arc::new(Semaphore::new(AT_ONCE)), told: Few::default() }
    }
}

impl App {
    /// Has this list asked from now on; `None`: none.
    pub fn set_breached(&self, list: Option<List>) {
        self.inner.breached.list.store(list.map(Arc::new));
    }

    /// Whether a password is in the list of stolen ones. What cannot be looked up is not known to be.
    pub(crate) async fn is_breached(&self, password: &SecretString) -> bool {
        let breached = &self.inner.breached;
        let Some(list) = breached.list.load_full() else { return false };
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, password.expose().as_bytes());
        let Ok(hash) = Sha1::try_from(hash.as_ref()) else { return false };
        let places = breached.places.clone();
        let looked = tokio::time::timeout(PATIENCE, async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            // The place is given back when it was read, however long that takes.
            let looked = tokio::task::spawn_blocking(move || {
                let found = list.has(&hash);
                drop(place);
                found
            });
            looked.await.map_err(io::Error::other)?
        });
        let looked = looked.await.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        looked.unwrap_or_else(|error| {
            if let Some(left_out) = breached.told.may(real::mono_us()) {
                tracing::error!(%error, left_out, "a password could not be looked up in breached_passwords_file; it counts as not stolen");
            }
            false
        })
    }

    /// Refuses a new password that is in the list of stolen ones, where that is asked for (NIST SP 800-63B §5.1.1.2).
    ///
    /// # Errors
    /// [`Refused::PasswordBreached`].
    pub(crate) async fn refuse_breached(&self, field: &'static str, password: &SecretString) -> Result<(), AppError> {
        if self.settings().policy.refuse_breached && self.is_breached(password).await {
            return Err(Refused::PasswordBreached { field }.into());
        }
        Ok(())
    }
}
