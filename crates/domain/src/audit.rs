//! The chain over audit records: by it a record that was changed, removed, inserted or moved is found, and named.
//!
//! A record is written in its act's own transaction and chained a moment later, by the one sealer ([`seal`]), in the order in which
//! the sealer found it: its *place* is a number without gaps and a link. A link is a MAC over place, link before and record, under
//! a key that the database has only sealed under the master key: who can write to the database alone can make none. Records do
//! not stay for ever: the oldest are pruned, and the chain then begins at a [`Start`], which is under that key too. What the database
//! cannot show by itself: an end that was cut off, an older copy in its place, and records whose seals were taken away, so that the
//! sealer chains them again as they are now. A place that somebody wrote down elsewhere shows them ([`Page::known`]), and to a
//! process that runs on, the place that it has seen ([`seen`]).
//!
//! What can be about a person (the address, the words of the reason) enters a link as a commitment with a salt of its own, drawn at
//! random: when it is erased, value and salt go, the commitment stays, and neither the four thousand million addresses of IPv4 nor any
//! list of words lead back. Ids are opaque, and stay.
//!
//! Why sealing comes after the commit and not in it: docs/decisions/0041-audit-chain.md.
pub mod seen;

use crate::Chance;
use crate::event::NewEvent;
use alloc::{format, string::ToString, vec::Vec};
use core::{fmt, str};
use hmac::{Hmac, Mac as _};
use portcullis_wire::{Digest, EventId, LogId, Millis, Rev, SecretBytes, Time, b64};
pub use seen::{Attested, Seen};
use sha2::Sha256;

/// How many records are sealed in one commit: some milliseconds of the database.
pub const AT_ONCE: u32 = 200;
/// How many records a page of a check has at most.
pub const PAGE: u32 = 1000;
/// How many findings a page names; the rest is the same page's again.
pub const MAX_FINDINGS: usize = 100;
/// A record that has waited for so long to be sealed is told of, in milliseconds.
pub const LATE: Millis = 10_000;
/// So many records that wait to be sealed are counted, and no more.
pub const COUNTED: u32 = 10_000;

/// What links are made with. In the database it is sealed under the master key.
#[derive(Debug, Clone)]
pub struct AuditKey(pub SecretBytes);

impl AuditKey {
    /// A new one.
    pub fn new(chance: &mut dyn Chance) -> Self {
        Self(SecretBytes::new(chance.secret()))
    }

    fn mac(&self, label: &[u8], parts: &[&[u8]]) -> Digest {
        // A key of any length is accepted by HMAC (RFC 2104 §2), so this cannot fail.
        let mut mac = match <Hmac<Sha256> as hmac::Mac>::new_from_slice(self.0.expose()) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes keys of any length"),
        };
        for part in core::iter::once(&label).chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        Digest(mac.finalize().into_bytes().into())
    }

    fn link(&self, log: LogId, n: u64, before: &Digest, record: &Record, seal: &Hides) -> Digest {
        let leaf = leaf(record, seal);
        self.mac(b"audit link 1", &[&log.bits().to_be_bytes(), &n.to_be_bytes(), &before.0, &leaf.0])
    }

    fn start(&self, log: LogId, place: Place) -> Start {
        let mac = self.mac(b"audit start 1", &[&log.bits().to_be_bytes(), &place.n.to_be_bytes(), &place.link.0]);
        Start { place, mac, old: None }
    }

    /// Where a chain begins in the place of one that is broken: what stands up to `old` was left by that one and is no part of it, and
    /// nothing stands between there and the beginning. `seen`: the last place that anybody is known to have seen. `None`: at the end
    /// of numbers.
    pub fn start_anew(&self, log: LogId, old: u64, seen: u64) -> Option<Start> {
        let n = old.max(seen).checked_add(LEAP).filter(|n| i64::try_from(*n).is_ok())?;
        let link = self.mac(b"audit genesis 2", &[&log.bits().to_be_bytes(), &n.to_be_bytes()]);
        Some(self.anew(log, Place { n, link }, Some(old)))
    }

    fn anew(&self, log: LogId, place: Place, old: Option<u64>) -> Start {
        let (log, n) = (log.bits().to_be_bytes(), place.n.to_be_bytes());
        let mac = match old {
            Some(old) => self.mac(b"audit anew 2", &[&log, &n, &place.link.0, &old.to_be_bytes()]),
            // Of a chain that was begun before it was written down what the one before had left.
            None => self.mac(b"audit anew 1", &[&log, &n, &place.link.0]),
        };
        Start { place, mac, old }
    }

    /// Whether this start is one of [`Self::start_anew`].
    fn is_anew(&self, log: LogId, start: Start) -> bool {
        self.anew(log, start.place, start.old) == start
    }

    /// Whether a server with the key has written this start.
    pub fn begins(&self, log: LogId, start: Start) -> bool {
        self.is_anew(log, start) || self.start(log, start.place) == start
    }

    /// Where a chain begins in which nothing is sealed yet.
    pub fn genesis(&self, log: LogId) -> Start {
        self.start(log, Place { n: 0, link: self.mac(b"audit genesis 1", &[&log.bits().to_be_bytes()]) })
    }
}

/// So far after the last place that anybody here saw a chain begins anew: other nodes may have seen a little more.
pub const LEAP: u64 = 1_000_000;
/// Beyond this no place is believed that no server is known to have given: whoever writes numbers into the database must not bring a
/// chain that is begun anew to their end.
pub const FARTHEST: u64 = 1 << 62;

/// A place in the chain: what is written down elsewhere, as `NUMBER:LINK`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// How many records were sealed up to it, this one too.
    pub n: u64,
    /// The link there.
    pub link: Digest,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.n, b64::encode(&self.link.0))
    }
}

impl str::FromStr for Place {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be NUMBER:LINK, as `audit head` prints it";
        let (n, link) = text.split_once(':').ok_or(wrong)?;
        let digits = !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit());
        let n = n.parse().ok().filter(|n| digits && i64::try_from(*n).is_ok()).ok_or(wrong)?;
        Ok(Self { n, link: Digest(b64::decode_array(link).ok_or(wrong)?) })
    }
}

/// After which place the chain begins, as the server that pruned it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The last place that was pruned.
    pub place: Place,
    /// Over that, under the key.
    pub mac: Digest,
    /// Where the chain was begun anew: up to which place the one before has left records.
    pub old: Option<u64>,
}

impl Start {
    /// Whether the chain before has left what stands here. Where nobody wrote down how far that went, it may be anything before the
    /// beginning.
    fn left(&self, n: u64) -> bool {
        n <= self.old.unwrap_or(self.place.n).min(self.place.n)
    }
}

/// The chain's row.
#[derive(Debug, Clone)]
pub struct ChainRow {
    /// The key, sealed under the master key.
    pub key: SecretBytes,
    /// Where it begins.
    pub start: Start,
    /// Where it ends.
    pub head: Place,
    /// That it goes on from a place, whatever was seen beyond it.
    pub attested: Option<Attested>,
}

impl ChainRow {
    /// A chain that begins there, with nothing in it.
    pub fn new(key: SecretBytes, start: Start) -> Self {
        Self { key, start, head: start.place, attested: None }
    }
}

/// The commitment to a value that may be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hidden {
    /// SHA-256 over salt and value.
    pub commitment: Digest,
    /// Gone with the value.
    pub salt: Option<[u8; 16]>,
}

impl Hidden {
    fn new(label: &str, value: &str, chance: &mut dyn Chance) -> Self {
        let salt = chance.bits().to_be_bytes();
        Self { commitment: Self::commit(label, value, &salt), salt: Some(salt) }
    }
    fn commit(label: &str, value: &str, salt: &[u8; 16]) -> Digest {
        let mut bytes = Vec::with_capacity(64 + value.len());
        [label.as_bytes(), salt, value.as_bytes()].iter().for_each(|part| put(&mut bytes, part));
        Digest::of(&bytes)
    }
}

/// What a seal says of what may be erased.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hides {
    /// The address, where there was one.
    pub address: Option<Hidden>,
    /// The reason, where there was one.
    pub reason: Option<Hidden>,
}

/// That a record is in the chain, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seal {
    /// Its place.
    pub place: Place,
    /// Its commitments.
    pub hides: Hides,
}

/// An audit record as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What was recorded.
    pub event: NewEvent,
    /// When it was committed, by the database's clock.
    pub at: Time,
    /// The entry that the act wrote, if it wrote one.
    pub rev: Option<Rev>,
    /// How many live sessions the act ended, when that was counted.
    pub ended: Option<u64>,
    /// Its seal; `None` until the sealer comes by.
    pub seal: Option<Seal>,
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
    bytes.extend_from_slice(part);
}

/// The digest of a record: every part with its length, and whether it is there, so that no two records look alike.
fn leaf(record: &Record, hides: &Hides) -> Digest {
    let Record { event, at, rev, ended, seal: _ } = record;
    let NewEvent { id, kind, actor, account, session, client, ip: _, reason: _ } = event;
    let mut bytes = Vec::with_capacity(320);
    let parts: [&[u8]; 5] =
        [b"audit record 1", &id.bits().to_be_bytes(), kind.as_str().as_bytes(), actor.as_bytes(), &at.0.to_be_bytes()];
    parts.iter().for_each(|part| put(&mut bytes, part));
    let ids = [account.map(|id| id.bits()), session.map(|id| id.bits()), client.map(|id| id.bits())];
    let numbers = [rev.map(|rev| rev.0), *ended];
    let hidden = [hides.address, hides.reason];
    let optional = ids.into_iter().map(|id| id.map(|id| id.to_be_bytes().to_vec()));
    let optional = optional.chain(numbers.into_iter().map(|number| number.map(|number| number.to_be_bytes().to_vec())));
    let optional = optional.chain(hidden.into_iter().map(|one| one.map(|one| one.commitment.0.to_vec())));
    for part in optional {
        bytes.push(u8::from(part.is_some()));
        put(&mut bytes, &part.unwrap_or_default());
    }
    Digest::of(&bytes)
}

/// Records to be sealed, from one place to another. A store applies all of it or nothing, and only where the chain still ends at
/// `from` and none of the records has a seal: of two sealers, each of which takes itself for the one, only one goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealing {
    /// Where the chain ends so far.
    pub from: Place,
    /// Where it ends then.
    pub to: Place,
    /// The records, in the order of their places.
    pub seals: Vec<(EventId, Seal)>,
}

/// Chains these records, in this order, after `from`.
pub fn seal(key: &AuditKey, log: LogId, from: Place, records: &[Record], chance: &mut dyn Chance) -> Sealing {
    let (mut to, mut seals) = (from, Vec::with_capacity(records.len()));
    for record in records {
        let event = &record.event;
        let hides = Hides {
            address: event.ip.map(|ip| Hidden::new("address", &ip.to_string(), chance)),
            reason: event.reason.as_ref().map(|reason| Hidden::new("reason", reason, chance)),
        };
        let n = to.n + 1;
        to = Place { n, link: key.link(log, n, &to.link, record, &hides) };
        seals.push((event.id, Seal { place: to, hides }));
    }
    Sealing { from, to, seals }
}

/// The chain's beginning goes up to a place: the records there are deleted. A Conflict where the chain begins elsewhere by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruning {
    /// Where it begins so far.
    pub from: Place,
    /// Where it begins then: elsewhere, or there where nothing but what an earlier chain has left goes.
    pub to: Start,
    /// Up to which place records go; not beyond its beginning.
    pub up_to: u64,
}

/// Another chain takes the place of one that is broken. A Conflict where the old one ends elsewhere by now.
#[derive(Debug, Clone)]
pub struct Anew {
    /// Where the old one ends; `None`: its row is gone.
    pub from: Option<Place>,
    /// The new one.
    pub row: ChainRow,
}

/// What may go of the beginning: the first of `rows` (the chain's first) that are from before this time, at most `most`. They are checked
/// first: whoever sets the time of a record back must not get a start under the key for it. One more is looked at, if it is there:
/// another record at the last place that goes would go with it, unseen.
///
/// # Errors
/// The first of what is wrong with them. Nothing may go then: it is what shows that something was done.
pub fn prune(
    key: &AuditKey,
    log: LogId,
    chain: &ChainRow,
    rows: &[Record],
    most: usize,
    before: Time,
) -> Result<Option<Pruning>, Finding> {
    if key.is_anew(log, chain.start) {
        // What stands before a chain that was begun anew proves nothing; it goes by its time.
        let before_it = |row: &&Record| row.seal.is_some_and(|seal| seal.place.n <= chain.start.place.n);
        let earlier = rows.iter().take_while(before_it);
        let put_there = |row: &&Record| row.seal.is_some_and(|seal| !chain.start.left(seal.place.n));
        if let Some((row, seal)) = earlier.clone().find(put_there).and_then(|row| Some((row, row.seal?))) {
            return Err(Finding::Inserted { n: seal.place.n, event: row.event.id });
        }
        let due = earlier.clone().take(most).take_while(|row| row.at < before);
        if let Some(seal) = due.last().and_then(|row| row.seal) {
            return Ok(Some(Pruning { from: chain.start.place, to: chain.start, up_to: seal.place.n }));
        }
        if earlier.count() > 0 {
            return Ok(None);
        }
    }
    let old = rows.iter().take(most).take_while(|row| row.at < before).count();
    let ((rows, rest), from) = (rows.split_at(old), chain.start.place);
    let Some(last) = rows.last() else { return Ok(None) };
    let place = |row: &Record| row.seal.map(|seal| seal.place.n);
    if let Some((next, n)) = rest.first().and_then(|next| Some((next, place(next)?)))
        && place(last) == Some(n)
    {
        return Err(Finding::Inserted { n, event: next.event.id });
    }
    let Checked { findings, to, .. } = check(key, &Page { log, chain, from: None, known: None, rows, last: false });
    match findings.first() {
        Some(finding) => Err(*finding),
        None => Ok((to != from).then(|| Pruning { from, to: key.start(log, to), up_to: to.n })),
    }
}

/// A part of a record that does not fit its commitment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The address.
    Address,
    /// The reason.
    Reason,
}

/// What is wrong with the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// Its starting point was not written by a server with the key.
    Start,
    /// There is nothing at these places.
    Missing {
        /// The first.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The record here is not what was sealed here, or its link is another one, or that of the record before.
    Changed {
        /// The place.
        n: u64,
        /// What stands there.
        event: EventId,
    },
    /// A part of the record here is not what was sealed.
    Part {
        /// The place.
        n: u64,
        /// What stands there.
        event: EventId,
        /// Which part.
        part: Part,
    },
    /// The record here was sealed at another place.
    Moved {
        /// The place.
        n: u64,
        /// What stands there.
        event: EventId,
        /// Its own place.
        own: u64,
    },
    /// A record where the chain has no place: before its beginning, between that and what an earlier chain has left, beyond its end,
    /// or where another one stands.
    Inserted {
        /// The place that it claims.
        n: u64,
        /// What stands there.
        event: EventId,
    },
    /// The chain ends before the known place: its end was cut off, or the database is an older one.
    Truncated {
        /// Where it ends.
        head: u64,
        /// The known place.
        known: u64,
    },
    /// At the known place there is another link: everything up to there was replaced.
    Replaced {
        /// The known place.
        known: u64,
    },
    /// The known place was pruned: nothing can be told of it any more.
    Forgotten {
        /// The first place that could be known.
        start: u64,
        /// The known place.
        known: u64,
    },
    /// The chain's row names another end than the last record has.
    Head {
        /// The place.
        n: u64,
    },
}

impl Finding {
    /// The word in the API.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Missing { .. } => "missing",
            Self::Changed { .. } => "changed",
            Self::Part { part: Part::Address, .. } => "address_changed",
            Self::Part { part: Part::Reason, .. } => "reason_changed",
            Self::Moved { .. } => "moved",
            Self::Inserted { .. } => "inserted",
            Self::Truncated { .. } => "truncated",
            Self::Replaced { .. } => "replaced",
            Self::Forgotten { .. } => "forgotten",
            Self::Head { .. } => "head",
        }
    }
    /// The record, where it is about one.
    pub const fn event(&self) -> Option<EventId> {
        match self {
            Self::Changed { event, .. }
            | Self::Part { event, .. }
            | Self::Moved { event, .. }
            | Self::Inserted { event, .. } => Some(*event),
            _ => None,
        }
    }
    /// The place.
    pub const fn place(&self) -> u64 {
        match self {
            Self::Start => 0,
            Self::Missing { from: n, .. }
            | Self::Changed { n, .. }
            | Self::Part { n, .. }
            | Self::Moved { n, .. }
            | Self::Inserted { n, .. }
            | Self::Truncated { known: n, .. }
            | Self::Replaced { known: n }
            | Self::Forgotten { known: n, .. }
            | Self::Head { n } => *n,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("the chain's starting point was not written by this server"),
            Self::Missing { from, to } if from == to => write!(f, "the record at {from} is missing"),
            Self::Missing { from, to } => write!(f, "the records from {from} to {to} are missing"),
            Self::Changed { n, event } => {
                write!(f, "{event} at {n} is not what was sealed there, or the link before it was changed")
            }
            Self::Part { n, event, part: Part::Address } => write!(f, "the address of {event} at {n} was changed"),
            Self::Part { n, event, part: Part::Reason } => write!(f, "the reason of {event} at {n} was changed"),
            Self::Moved { n, event, own } => write!(f, "{event} stands at {n} and was sealed at {own}"),
            Self::Inserted { n, event } => write!(f, "{event} claims the place {n}, which the chain does not have"),
            Self::Truncated { head, known } => write!(
                f,
                "the chain ends at {head}, before the known place {known}: its end was cut off, or the database is an older one"
            ),
            Self::Replaced { known } => {
                write!(f, "another link stands at the known place {known}: the chain is another one")
            }
            Self::Forgotten { start, known } => write!(
                f,
                "the known place {known} was pruned (the chain begins after {start}): nothing can be told of it"
            ),
            Self::Head { n } => write!(f, "the chain's row names another end than the record at {n} has"),
        }
    }
}

/// A page of the chain, to be checked.
#[derive(Debug, Clone)]
pub struct Page<'a> {
    /// The log whose chain it is.
    pub log: LogId,
    /// The chain's row, of the same snapshot as `rows`.
    pub chain: &'a ChainRow,
    /// After which place it begins, as the page before said; `None`: at the very beginning, and `rows` is whatever comes first.
    pub from: Option<Place>,
    /// A place that was written down elsewhere.
    pub known: Option<Place>,
    /// What stands after that, by place; from there on ([`reading`]), so that a second record at the place where the page before ended
    /// is seen.
    pub rows: &'a [Record],
    /// Whether nothing stands after them.
    pub last: bool,
}

/// After which place to read for a page: the record that the page before ended with comes first once more. What a chain has left that
/// was there before is passed over; from its end on everything is looked at.
pub fn reading(from: Option<Place>, start: Start) -> Option<u64> {
    from.map(|from| from.n.saturating_sub(1)).or(start.old)
}

/// Whether nothing is left to look at after these rows, of which so many were asked for: what claims a place beyond the end only
/// has more of its kind after it.
pub fn is_last(chain: &ChainRow, rows: &[Record], most: usize) -> bool {
    let beyond = |row: &Record| row.seal.is_some_and(|seal| seal.place.n > chain.head.n);
    rows.len() < most || rows.last().is_some_and(beyond)
}

/// What a page came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// What is wrong, at most [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Up to where it was looked at: the next page's [`Page::from`].
    pub to: Place,
    /// How many records were looked at.
    pub records: u64,
    /// Of how many of them something was erased.
    pub erased: u64,
    /// Whether the known place was met, and is right.
    pub known: bool,
}

/// A record that does not fit where it stands.
struct Misfit<'a> {
    before: Digest,
    record: &'a Record,
    seal: Seal,
}

/// Checks a page. Whatever differs from what was sealed gives at least one finding.
pub fn check(key: &AuditKey, page: &Page<'_>) -> Checked {
    let Page { log, chain, from, known, rows, last } = page;
    let mut out = Checked { findings: Vec::new(), to: chain.start.place, records: 0, erased: 0, known: false };
    let anew = key.is_anew(*log, chain.start);
    if !key.begins(*log, chain.start) {
        out.findings.push(Finding::Start);
    }
    if let Some(from) = from
        && from.n >= chain.start.place.n
    {
        out.to = *from;
    }
    if let Some(known) = known {
        if known.n > chain.head.n {
            out.findings.push(Finding::Truncated { head: chain.head.n, known: known.n });
        } else if known.n < chain.start.place.n {
            out.findings.push(Finding::Forgotten { start: chain.start.place.n, known: known.n });
        }
    }
    meet(&mut out, *known);
    let mut misfits: Vec<Misfit<'_>> = Vec::new();
    // The one that the page before ended with was looked at then.
    let mut looked_at = from.map(|from| from.n).filter(|n| *n > chain.start.place.n);
    for record in *rows {
        let Some(seal) = record.seal else { continue };
        if looked_at.take_if(|n| *n == seal.place.n).is_some() {
            continue;
        }
        let (n, event) = (seal.place.n, record.event.id);
        if anew && chain.start.left(n) {
            continue; // of an earlier chain
        }
        out.records += 1;
        if n <= out.to.n || n > chain.head.n {
            out.findings.push(Finding::Inserted { n, event });
            continue;
        }
        if n == out.to.n + 1 {
            if key.link(*log, n, &out.to.link, record, &seal.hides) != seal.place.link {
                misfits.push(Misfit { before: out.to.link, record, seal });
            }
        } else {
            out.findings.push(Finding::Missing { from: out.to.n + 1, to: n - 1 });
        }
        let parts = [
            (Part::Address, record.event.ip.map(|ip| ip.to_string()), seal.hides.address),
            (Part::Reason, record.event.reason.clone(), seal.hides.reason),
        ];
        let mut erased = false;
        for (part, value, hidden) in parts {
            match fits(part, value.as_deref(), hidden) {
                Fit::Whole => {}
                Fit::Erased => erased = true,
                Fit::Wrong => out.findings.push(Finding::Part { n, event, part }),
            }
        }
        out.erased += u64::from(erased);
        out.to = seal.place;
        meet(&mut out, *known);
    }
    if *last {
        if out.to.n < chain.head.n {
            out.findings.push(Finding::Missing { from: out.to.n + 1, to: chain.head.n });
        } else if out.to != chain.head {
            out.findings.push(Finding::Head { n: chain.head.n });
        }
    }
    misfits.truncate(MAX_FINDINGS);
    for one in &misfits {
        let (n, event) = (one.seal.place.n, one.record.event.id);
        let own = misfits.iter().find(|other| {
            let (place, hides) = (other.seal.place, &one.seal.hides);
            let there = key.link(*log, place.n, &other.before, one.record, hides);
            place.n != n && (there == place.link || there == one.seal.place.link)
        });
        out.findings.push(match own {
            Some(other) => Finding::Moved { n, event, own: other.seal.place.n },
            None => Finding::Changed { n, event },
        });
    }
    out.findings.sort_by_key(Finding::place);
    out.findings.truncate(MAX_FINDINGS);
    out
}

/// Holds the place that was reached against the known one.
fn meet(out: &mut Checked, known: Option<Place>) {
    let Some(known) = known.filter(|known| known.n == out.to.n) else { return };
    if known == out.to {
        out.known = true;
    } else if !out.findings.contains(&Finding::Replaced { known: known.n }) {
        out.findings.push(Finding::Replaced { known: known.n });
    }
}

enum Fit {
    Whole,
    Erased,
    Wrong,
}

fn fits(part: Part, value: Option<&str>, hidden: Option<Hidden>) -> Fit {
    let label = match part {
        Part::Address => "address",
        Part::Reason => "reason",
    };
    match (value, hidden) {
        (None, None) => Fit::Whole,
        (None, Some(Hidden { salt: None, .. })) => Fit::Erased,
        (Some(value), Some(Hidden { commitment, salt: Some(salt) }))
            if Hidden::commit(label, value, &salt) == commitment =>
        {
            Fit::Whole
        }
        _ => Fit::Wrong,
    }
}

/// How much waits to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unsealed {
    /// How many records: at most [`COUNTED`].
    pub count: u64,
    /// Since when the oldest of those does.
    pub since: Option<Time>,
}

impl Unsealed {
    /// For how long the oldest has waited at `now`, in milliseconds.
    pub fn age(&self, now: Time) -> Millis {
        self.since.map_or(0, |since| now.since(since).max(0))
    }
    /// What is to be told of it, in words; `None` when all is well.
    pub fn alarm(&self, now: Time) -> Option<alloc::string::String> {
        let age = self.age(now);
        (age >= LATE).then(|| format!("{} audit records wait to be sealed, the oldest for {age} ms", self.count))
    }
}
