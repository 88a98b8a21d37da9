//! What goes into a subscriber and what comes out of it.
use crate::Mono;
use alloc::{string::String, vec::Vec};
use core::fmt;
use portcullis_wire::frame::{self, AckAnswer, Hello, Keys, Snapshot};
use portcullis_wire::time::Millis;
use portcullis_wire::{Entry, Epoch, InstanceId, KeyId, LogId, Rev, SecretString, Time};

/// The moment of an input: both clocks, and a random number for nonces and jitter.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The monotonic clock.
    pub mono: Mono,
    /// The wall clock.
    pub wall: Time,
    /// 64 random bits, fresh each time.
    pub chance: u64,
}

/// What a verifier sets.
#[derive(Debug, Clone)]
pub struct Config {
    /// A bound shorter than the server's; a longer one changes nothing.
    pub bound_ms: Option<Millis>,
    /// The only log that is followed; without it, the first one that is met.
    pub log: Option<LogId>,
    /// How many entries are kept one by one.
    pub set_limit: usize,
    /// For a relay: what is applied is kept for [`crate::Subscriber::take_news`], and leases are asked for more often, since
    /// their age is added to that of everyone below.
    pub relays: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { bound_ms: None, log: None, set_limit: crate::set::DEFAULT_LIMIT, relays: false }
    }
}

/// A frame of the stream.
#[derive(Debug, Clone)]
pub enum Frame {
    /// `event: hello`.
    Hello(Hello),
    /// `event: snapshot`.
    Snapshot(Snapshot),
    /// `event: entries`.
    Entries(frame::Entries),
    /// `event: keys`.
    Keys(Keys),
    /// `event: bye`: the server is about to stop.
    Bye,
}

/// What arrives.
#[derive(Debug, Clone)]
pub enum Input {
    /// A frame, with its `id` if it has one.
    Frame(Frame, Option<String>),
    /// The stream could not be opened, or ended.
    StreamEnded,
    /// The answer to an [`Action::Ask`].
    Answer(AckAnswer),
    /// An [`Action::Ask`] failed: the nonce's, and whether the instance is not known any more (`instance_gone`).
    AskFailed {
        /// The question's.
        nonce: String,
        /// The server does not know this instance.
        gone: bool,
    },
    /// The page that an [`Action::Pull`] asked for.
    Page(Snapshot),
    /// An [`Action::Pull`] failed; with `conflict` the snapshot has become another: begin again.
    PullFailed {
        /// The page of that snapshot is not there any more.
        conflict: bool,
    },
    /// The request path saw what it does not know yet: a token of a later rev, or no lease.
    CatchUp,
    /// Time has passed.
    Tick,
}

/// Who this verifier is at the server.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The instance.
    pub instance: InstanceId,
    /// Its secret.
    pub secret: SecretString,
}

/// What should be done, in order.
#[derive(Debug, Clone)]
pub enum Action {
    /// Open the stream (closing an older one), as this instance if there is one, after this position if there is one.
    Connect {
        /// Who to be again.
        identity: Option<Identity>,
        /// The last `id`, to be sent as `Last-Event-ID`.
        position: Option<String>,
    },
    /// Close the stream; no [`Input::StreamEnded`] is expected for it.
    Disconnect,
    /// Ask for a lease, acknowledging what is applied.
    Ask(Ask),
    /// Fetch this page of a snapshot, of this rev when it is not the first.
    Pull {
        /// Who asks.
        identity: Identity,
        /// The page's number.
        part: u32,
        /// The snapshot that it must be of.
        rev: Option<Rev>,
    },
    /// [`crate::Subscriber::knowledge`] changed: make it visible to all threads before going on.
    Publish,
    /// Something is wrong, and a person should know.
    Report(Trouble),
}

/// What was applied since it was last asked for; a relay hands it on.
#[derive(Debug, Clone, Default)]
pub struct News {
    /// It does not continue what was there before: begin anew from what is known now.
    pub anew: bool,
    /// The entries, in order, without a gap.
    pub entries: Vec<Entry>,
}

/// A question for a lease: the members of `frame::AckRequest`.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Who asks.
    pub identity: Identity,
    /// The generation that is followed.
    pub epoch: Epoch,
    /// The position that every verdict from now on rests on.
    pub applied: Rev,
    /// What everything below has in force; a relay's, which puts it in. Then it is this that is acknowledged.
    pub enforced: Option<Rev>,
    /// The last `id`; empty when none came.
    pub position: String,
    /// To be repeated by the answer.
    pub nonce: String,
    /// The numbers of the keys that are known.
    pub keys: Vec<KeyId>,
}

/// What a person should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trouble {
    /// The server speaks another version of the feed.
    Version,
    /// Another log than the one that is followed. Never followed by itself.
    OtherLog,
    /// An epoch before the one that is followed.
    OlderEpoch,
    /// Another hash at a known position.
    Fork,
    /// A head, read after this verifier had applied more: the server lost commits.
    Rollback,
    /// A head below what is applied, from an earlier read: that node lags.
    Lagging,
    /// A frame that contradicts itself or exceeds a limit.
    Malformed,
    /// The wall clock outran the monotonic one.
    ClockOutrun,
}

impl Trouble {
    /// A word for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::OtherLog => "other_log",
            Self::OlderEpoch => "older_epoch",
            Self::Fork => "fork",
            Self::Rollback => "rollback",
            Self::Lagging => "lagging",
            Self::Malformed => "malformed",
            Self::ClockOutrun => "clock_outrun",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
