//! How many passwords may be guessed: budgets that are taken before a password is looked at, and given back when it was right.
//!
//! Each attempt to sign in touches three buckets: of its *account* (whoever has that address, if anybody), of where it comes
//! from at that account (a known *device*, else the *network*: account and address prefix), and of its *prefix* over all
//! accounts. Which of them it is charged to depends on who comes:
//!
//! | who | charged | so |
//! |---|---|---|
//! | a stranger | account, network and prefix | no account is guessed at faster than its one budget, however many addresses do it |
//! | somebody in a network from which this account signed in before | network | strangers elsewhere cannot use that up |
//! | a device that signed in to this account before | device | nobody else can use that up, not even a neighbour |
//!
//! An attempt that finds one of its buckets empty is throttled and charged to none: asking again and again prolongs nothing.
//! It is answered like a wrong password. All three rows are written whatever the outcome, so that the disk does not tell.
//!
//! Signing up has budgets of its own ([`Attempt::of_sign_up`]): an account is a row for ever and costs a password hash, and the
//! answer tells whether an address has one (unless addresses are verified). They are taken whatever comes of it, and are those
//! of [`NETWORK`] for one address and of [`PREFIX`] for all of them.
//!
//! Mails have some, too, so that nobody's mailbox is filled by who knows their address ([`Attempt::of_recovery`], [`Attempt::of_wish`],
//! [`Attempt::of_mail`]).
//!
//! Buckets know the database's time only. When it was set back, a bucket takes it that no time has passed.
use crate::family::MacKey;
use alloc::{format, string::String, vec::Vec};
use core::net::IpAddr;
use portcullis_wire::{AccountId, Millis, Time};

/// A bucket's size and pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// So many attempts at once.
    pub burst: i64,
    /// And one more each time that this has passed, in milliseconds.
    pub every: Millis,
}

impl Budget {
    /// What an empty bucket owes.
    const fn size(self) -> Millis {
        self.burst * self.every
    }
    /// The most attempts that any window of this length can take (those given back aside).
    pub const fn most_in(self, window: Millis) -> i64 {
        self.burst + window.div_euclid(self.every)
    }
}

const MINUTE: Millis = 60_000;
/// At one account, by strangers all together: 30, then one every ten minutes (174 on the first day, 144 on each further one).
pub const ACCOUNT: Budget = Budget { burst: 30, every: 10 * MINUTE };
/// At one account from one address prefix: 10, then one every five minutes. Far below [`ACCOUNT`]: who has one prefix only
/// cannot use up what the account's owner needs on a new device elsewhere.
pub const NETWORK: Budget = Budget { burst: 10, every: 5 * MINUTE };
/// From one address prefix at all accounts: 100, then ten a minute. An office behind one address shares it; only what is
/// wrong counts, since what was right is given back.
pub const PREFIX: Budget = Budget { burst: 100, every: 6_000 };
/// Mails of one kind to one address: 3, then one every twenty minutes.
pub const MAILS: Budget = Budget { burst: 3, every: 20 * MINUTE };
/// From one known device at its account: 10, then one every five minutes.
pub const DEVICE: Budget = Budget { burst: 10, every: 5 * MINUTE };

/// Addresses count by their first 24 bits (IPv4): as much as one customer may easily have.
pub const PREFIX_V4: u32 = 24;
/// Addresses count by their first 56 bits (IPv6), for the same reason.
pub const PREFIX_V6: u32 = 56;
/// Of each account so many networks are remembered, the latest.
pub const MAX_NETWORKS: usize = 8;
/// A network is forgotten when the account did not sign in from there for so long.
pub const NETWORK_LIFE: Millis = 30 * 86_400_000;

/// The name of a bucket or network: a MAC, which tells nothing without the server's key. What people type into a sign-in form
/// by mistake may be a password; no plain digest of it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketKey(pub [u8; 16]);

/// The buckets of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Of the account.
    pub account: BucketKey,
    /// Of the account and the address prefix.
    pub network: BucketKey,
    /// Of the address prefix.
    pub prefix: BucketKey,
    /// Of the device, when it is a known one of this account.
    pub device: Option<BucketKey>,
    /// Whether it is no guess, but a mail to somebody ([`MAILS`]).
    pub mail: bool,
}

impl Attempt {
    /// The buckets of an attempt at what is counted under `name_of` ([`Name::now`]) from `ip`. `device` is the number of a device that
    /// proved to be a known one of it.
    pub fn of(key: &MacKey, name_of: &str, ip: Option<IpAddr>, device: Option<u128>) -> Self {
        let prefix = prefix_of(ip);
        let name = |label: &[u8], parts: &[&[u8]]| BucketKey(key.tag(label, parts));
        let id = name_of.as_bytes();
        Self {
            account: name(b"guesses at account", &[id]),
            network: name(b"guesses from network", &[&prefix, id]),
            prefix: name(b"guesses from prefix", &[&prefix]),
            device: device.map(|device| name(b"guesses on device", &[&device.to_be_bytes(), id])),
            mail: false,
        }
    }
    /// The buckets of asking for a link to a new password for `identifier` from `ip`. Those of the address are taken whether there is
    /// such an account or not, and nothing gives them back. None is one of a sign-in's.
    pub fn of_recovery(key: &MacKey, identifier: &str, ip: Option<IpAddr>) -> Self {
        let (prefix, id) = (prefix_of(ip), identifier.as_bytes());
        let name = |label: &[u8], parts: &[&[u8]]| BucketKey(key.tag(label, parts));
        Self {
            account: name(b"recoveries of account", &[id]),
            network: name(b"recoveries from network", &[&prefix, id]),
            prefix: name(b"recoveries from prefix", &[&prefix]),
            device: None,
            mail: true,
        }
    }
    /// The buckets of a mail to an address that somebody else may have named: of a sign-up, a wish to have it, the deletion of an account
    /// that never proved it. None is one of [`Attempt::of_recovery`]: nobody keeps somebody from a link to a new password by that.
    pub fn of_wish(key: &MacKey, template: crate::mail::Template, address: &str, ip: Option<IpAddr>) -> Self {
        let (prefix, id, what) = (prefix_of(ip), address.as_bytes(), template.as_str().as_bytes());
        let name = |label: &[u8], parts: &[&[u8]]| BucketKey(key.tag(label, parts));
        Self {
            account: name(b"wishes for an address", &[what, id]),
            network: name(b"wishes from network", &[what, &prefix, id]),
            prefix: name(b"wishes from prefix", &[what, &prefix]),
            device: None,
            mail: true,
        }
    }
    /// The buckets of a mail of this kind to an account.
    pub fn of_mail(key: &MacKey, template: crate::mail::Template, account: AccountId) -> Self {
        let name =
            |label: &[u8]| BucketKey(key.tag(label, &[template.as_str().as_bytes(), &account.bits().to_be_bytes()]));
        let (network, prefix) = (name(b"mails to account, too"), name(b"mails to account, as well"));
        Self { account: name(b"mails to account"), network, prefix, device: None, mail: true }
    }
    /// The buckets of a sign-up with `identifier` from `ip`; none where it comes from this machine itself ([`is_this_machine`]),
    /// where [`crate::pace::SIGN_UPS_HERE`] counts. All three are of that prefix, so that nobody
    /// elsewhere is kept from signing up, and none is one of a sign-in's, so that nobody at all is kept from that.
    pub fn of_sign_up(key: &MacKey, identifier: &str, ip: Option<IpAddr>) -> Option<Self> {
        if is_this_machine(ip) {
            return None;
        }
        let (prefix, id) = (prefix_of(ip), identifier.as_bytes());
        let name = |label: &[u8], parts: &[&[u8]]| BucketKey(key.tag(label, parts));
        Some(Self {
            account: name(b"sign-ups of one address", &[&prefix, id]),
            network: name(b"sign-ups again", &[&prefix, id]),
            prefix: name(b"sign-ups from prefix", &[&prefix]),
            device: None,
            mail: false,
        })
    }
    /// The buckets that a stranger's attempt is charged to and rules ask about: those of the account and the prefix.
    pub fn strangers(&self) -> [BucketKey; 2] {
        [self.account, self.prefix]
    }
    /// The buckets, in the order in which [`take`] wants them.
    pub fn keys(&self) -> [BucketKey; 3] {
        [self.account, self.device.unwrap_or(self.network), self.prefix]
    }
    /// The budgets of those buckets.
    pub fn budgets(&self) -> [Budget; 3] {
        let account = if self.mail { MAILS } else { ACCOUNT };
        [account, if self.device.is_some() { DEVICE } else { NETWORK }, PREFIX]
    }
}

/// The part of an address that counts: 17 bytes, of which the first says which kind.
pub fn prefix_of(ip: Option<IpAddr>) -> [u8; 17] {
    first_bits(ip, PREFIX_V4, PREFIX_V6)
}

/// How wide the nets are that an address is in: its prefix; its *site*, as much as one may have for the asking (a small
/// provider's addresses, the /48 of a tunnel broker); its *network*, as much as a provider has.
const NETS: [(u32, u32); LEVELS] = [(PREFIX_V4, PREFIX_V6), (20, 48), (16, 32)];
/// How many [`networks_of`] an address there are.
pub const LEVELS: usize = 3;

/// A net, with its place in [`networks_of`].
pub type NetworkKey = (u8, [u8; 17]);

/// The nets that an address is in, from the narrowest one on, which is [`prefix_of`] it.
pub fn networks_of(ip: Option<IpAddr>) -> [NetworkKey; LEVELS] {
    let mut level = 0;
    NETS.map(|(v4, v6)| {
        level += 1;
        (level - 1, first_bits(ip, v4, v6))
    })
}

fn first_bits(ip: Option<IpAddr>, v4: u32, v6: u32) -> [u8; 17] {
    let mut out = [0; 17];
    match ip.map(|ip| ip.to_canonical()) {
        None => {}
        Some(IpAddr::V4(ip)) => {
            out[0] = 4;
            out[1..5].copy_from_slice(&(ip.to_bits() & (u32::MAX << (32 - v4))).to_be_bytes());
        }
        Some(IpAddr::V6(ip)) => {
            out[0] = 6;
            out[1..].copy_from_slice(&(ip.to_bits() & (u128::MAX << (128 - v6))).to_be_bytes());
        }
    }
    out
}

/// Whether somebody comes from this machine itself. That is an operator, a script of theirs, or a proxy that is missing in
/// `trusted_proxies`, and so in truth everybody: a budget of a prefix would be everybody's, and none at all would be for everybody.
/// So strangers from there draw on budgets of all alone ([`crate::pace`]).
pub fn is_this_machine(ip: Option<IpAddr>) -> bool {
    ip.is_some_and(|ip| ip.to_canonical().is_loopback())
}

/// A bucket as it is kept. One that is not kept is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// How long it took to be full again, as of `seen_at`, in milliseconds.
    pub debt: Millis,
    /// When it was last touched.
    pub seen_at: Time,
}

impl Bucket {
    /// When it is full again, and may be forgotten.
    pub fn full_at(&self) -> Time {
        self.seen_at.plus(self.debt)
    }
    /// The same at `now`. Nothing has passed when the clock was set back.
    fn at(self, now: Time) -> Self {
        let passed = now.since(self.seen_at).max(0);
        Self { debt: self.debt.saturating_sub(passed).max(0), seen_at: now }
    }
}

/// Whether an attempt may be checked, and as whose it was charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// It may not: its password is not looked at.
    Throttled,
    /// It may, charged as a stranger's.
    Stranger,
    /// It may, charged to a network that the account knows.
    Network,
    /// It may, charged to a device that the account knows.
    Device,
}

impl Verdict {
    /// Whether the password is looked at.
    pub fn is_checked(self) -> bool {
        self != Self::Throttled
    }
    /// Which of the three buckets are charged.
    fn charges(self) -> [bool; 3] {
        match self {
            Self::Throttled => [false; 3],
            Self::Stranger => [true; 3],
            Self::Network | Self::Device => [false, true, false],
        }
    }
}

/// Takes an attempt, or does not. `remembered`: the account signed in from this network before. `rows` are the buckets as they
/// are kept, in the order of [`Attempt::keys`]; what comes back is written in their place, whatever the verdict.
pub fn take(attempt: &Attempt, remembered: bool, rows: [Option<Bucket>; 3], now: Time) -> (Verdict, [Bucket; 3]) {
    let wanted = match (attempt.device, remembered) {
        (Some(_), _) => Verdict::Device,
        (None, true) => Verdict::Network,
        (None, false) => Verdict::Stranger,
    };
    let (budgets, charges) = (attempt.budgets(), wanted.charges());
    let mut buckets = rows.map(|row| row.unwrap_or(Bucket { debt: 0, seen_at: now }).at(now));
    let fits = (0..3).all(|n| !charges[n] || buckets[n].debt + budgets[n].every <= budgets[n].size());
    if !fits {
        return (Verdict::Throttled, buckets);
    }
    for n in (0..3).filter(|n| charges[*n]) {
        buckets[n].debt += budgets[n].every;
    }
    (wanted, buckets)
}

/// Gives back what [`take`] took: the password was right, or was never looked at. A bucket that is full again, and so no
/// longer kept, stays so.
pub fn give_back(attempt: &Attempt, verdict: Verdict, rows: [Option<Bucket>; 3], now: Time) -> [Option<Bucket>; 3] {
    let (budgets, charges) = (attempt.budgets(), verdict.charges());
    let mut out = rows;
    for n in (0..3).filter(|n| charges[*n]) {
        out[n] = rows[n].map(|row| {
            let row = row.at(now);
            Bucket { debt: (row.debt - budgets[n].every).max(0), ..row }
        });
    }
    out
}

/// Takes one from a bucket that stands by itself; `None` when it is empty.
pub fn draw(budget: Budget, row: Option<Bucket>, now: Time) -> Option<Bucket> {
    let mut bucket = row.unwrap_or(Bucket { debt: 0, seen_at: now }).at(now);
    bucket.debt = bucket.debt.saturating_add(budget.every);
    (bucket.debt <= budget.size()).then_some(bucket)
}

/// How many wrong passwords are still owed for, at the account and from the prefix, before this attempt. `rows` are the buckets of
/// both after it was taken.
pub fn owed_before(verdict: Verdict, rows: [Option<Bucket>; 2], now: Time) -> [u32; 2] {
    let [account, _, prefix] = verdict.charges();
    let owed = |row: Option<Bucket>, budget: Budget, own: bool| {
        let debt = row.map_or(0, |row| row.at(now).debt) - if own { budget.every } else { 0 };
        u32::try_from((debt.max(0) + budget.every - 1).div_euclid(budget.every)).unwrap_or(u32::MAX)
    };
    [owed(rows[0], ACCOUNT, account), owed(rows[1], PREFIX, prefix)]
}

/// Whether a network that an account last signed in from at `at` is still known at `now`.
pub fn is_remembered(at: Time, now: Time) -> bool {
    now.since(at) < NETWORK_LIFE
}

/// Which of an account's remembered networks go when there are these: the forgotten ones, and the oldest beyond
/// [`MAX_NETWORKS`].
pub fn networks_to_forget(mut known: Vec<(BucketKey, Time)>, now: Time) -> Vec<BucketKey> {
    known.sort_by_key(|(key, at)| (core::cmp::Reverse(*at), *key));
    let goes = |(n, (_, at)): &(usize, &(BucketKey, Time))| *n >= MAX_NETWORKS || !is_remembered(*at, now);
    known.iter().enumerate().filter(goes).map(|(_, (key, _))| *key).collect()
}

/// What an identifier is counted under: the address when it is one, else the text itself.
pub fn counted_as(identifier: &str) -> String {
    match crate::account::Email::parse(identifier) {
        Ok(email) => email.as_str().into(),
        Err(_) => identifier.trim().to_lowercase(),
    }
}

/// What attempts at an account, the networks that it signed in from and the marks of its devices are counted under: its id, so that
/// they stay when it gets another address; what was typed, where that is no account's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    now: String,
    before: Option<String>,
}

impl Name {
    /// Of what somebody typed, and the account that has this address, if one does.
    pub fn of(account: Option<AccountId>, typed: &str) -> Self {
        let typed = counted_as(typed);
        match account {
            // Nobody can type it: what is typed is counted without capital letters.
            Some(account) => Self { now: format!("ACCOUNT {account}"), before: Some(typed) },
            None => Self { now: typed, before: None },
        }
    }
    /// The name.
    pub fn now(&self) -> &str {
        &self.now
    }
    /// Under which releases before counted it: the address.
    pub fn before(&self) -> Option<&str> {
        self.before.as_deref()
    }
}
