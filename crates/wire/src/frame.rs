//! The frames of the feed, version 1: what server and verifier say to each other. Unknown members are ignored (a newer server
//! may add some); an entry whose verb or scope is unknown is kept as it is, so that the chain still adds up, and `feed`
//! treats it as "stale everything".
use crate::jws::Jwk;
use crate::{
    AccountId, Chain, ClientId, Epoch, GrantId, InstanceId, KeyId, LogId, Rev, SecretString, SessionId, Time, TokenId,
};
use alloc::{
    borrow::Cow,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The version of these frames, in `hello`.
pub const VERSION: u32 = 1;

/// What an entry does to the tokens that it matches.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    /// They are dead.
    End,
    /// Their claims are out of date: refresh, then go on.
    Stale,
    /// A signing key is dead, for good.
    Key,
    /// A verb of a newer version.
    Other(String),
}

impl Verb {
    /// The name on the wire.
    pub fn name(&self) -> &str {
        match self {
            Self::End => "end",
            Self::Stale => "stale",
            Self::Key => "key",
            Self::Other(name) => name,
        }
    }
    /// From the name on the wire.
    pub fn from_name(name: &str) -> Self {
        match name {
            "end" => Self::End,
            "stale" => Self::Stale,
            "key" => Self::Key,
            other => Self::Other(other.to_string()),
        }
    }
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// One access token.
    Token(TokenId),
    /// One client's grant under a session.
    Grant(GrantId),
    /// One session.
    Session(SessionId),
    /// All sessions of an account.
    Account(AccountId),
    /// Everything given to a client.
    Client(ClientId),
    /// A signing key.
    Key(KeyId),
    /// Everything.
    All,
    /// A scope of a newer version, or an id that does not parse.
    Other {
        /// The scope's name.
        scope: String,
        /// The id as given.
        id: String,
    },
}

impl Target {
    /// The scope's name on the wire.
    pub fn scope(&self) -> &str {
        match self {
            Self::Token(_) => "token",
            Self::Grant(_) => "grant",
            Self::Session(_) => "session",
            Self::Account(_) => "account",
            Self::Client(_) => "client",
            Self::Key(_) => "key",
            Self::All => "all",
            Self::Other { scope, .. } => scope,
        }
    }

    /// The id on the wire; empty for [`Target::All`].
    pub fn id(&self) -> Cow<'_, str> {
        match self {
            Self::Token(id) => id.to_string().into(),
            Self::Grant(id) => id.to_string().into(),
            Self::Session(id) => id.to_string().into(),
            Self::Account(id) => id.to_string().into(),
            Self::Client(id) => id.to_string().into(),
            Self::Key(id) => id.to_string().into(),
            Self::All => "".into(),
            Self::Other { id, .. } => id.into(),
        }
    }

    /// From scope and id on the wire; what is not understood becomes [`Target::Other`].
    pub fn parse(scope: &str, id: &str) -> Self {
        let known = match scope {
            "token" => id.parse().ok().map(Self::Token),
            "grant" => id.parse().ok().map(Self::Grant),
            "session" => id.parse().ok().map(Self::Session),
            "account" => id.parse().ok().map(Self::Account),
            "client" => id.parse().ok().map(Self::Client),
            "key" => id.parse().ok().map(Self::Key),
            "all" if id.is_empty() => Some(Self::All),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other { scope: scope.to_string(), id: id.to_string() })
    }
}

/// One entry of the revocation log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub rev: Rev,
    /// What it does.
    pub verb: Verb,
    /// To what.
    pub target: Target,
    /// The one session that an `end` of an account, a client or everything spares.
    pub except: Option<SessionId>,
    /// Over how many milliseconds verifiers may spread a `stale`.
    pub spread_ms: Option<u64>,
    /// No token that it matches lives longer: the horizon read under the counter's lock.
    pub until: Time,
}

#[derive(Serialize, Deserialize)]
struct RawEntry<'a> {
    rev: Rev,
    verb: Cow<'a, str>,
    scope: Cow<'a, str>,
    #[serde(default)]
    id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    except: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spread_ms: Option<u64>,
    until: Time,
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        RawEntry {
            rev: self.rev,
            verb: self.verb.name().into(),
            scope: self.target.scope().into(),
            id: self.target.id(),
            except: self.except,
            spread_ms: self.spread_ms,
            until: self.until,
        }
        .serialize(s)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let raw = RawEntry::deserialize(d)?;
        Ok(Self {
            rev: raw.rev,
            verb: Verb::from_name(&raw.verb),
            target: Target::parse(&raw.scope, &raw.id),
            except: raw.except,
            spread_ms: raw.spread_ms,
            until: raw.until,
        })
    }
}

/// `event: hello`: the first frame of a stream.
#[derive(Debug, Clone, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub v: u32,
    /// The log that this feed carries. A verifier never follows another by itself.
    pub log: LogId,
    /// The instance that the subscriber is.
    pub instance: InstanceId,
    /// Its secret, for reconnecting and acknowledging.
    pub instance_secret: SecretString,
    /// The log's generation.
    pub epoch: Epoch,
    /// Position of the newest entry.
    pub head: Rev,
    /// Chain link at `head`.
    pub chain: Chain,
    /// The bound B in milliseconds.
    pub bound_ms: u64,
    /// The longest configured life of an access token in seconds.
    pub max_life_s: u64,
}

/// `event: snapshot`: a part of the live entries as of `rev`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// The log's generation.
    pub epoch: Epoch,
    /// The position that the whole snapshot is of.
    pub rev: Rev,
    /// Chain link at `rev`.
    pub chain: Chain,
    /// F: what expires up to here may have been forgotten.
    pub horizon_floor: Time,
    /// Live entries, by ascending rev over all parts.
    pub entries: Vec<Entry>,
    /// All public signing keys (in part 0 only).
    pub keys: Vec<Jwk>,
    /// This part's number, from 0.
    pub part: u32,
    /// How many parts there are, at least 1.
    pub parts: u32,
}

/// `event: entries`: consecutive entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entries {
    /// By ascending rev, without a gap; may be empty when only `ack` is meant.
    pub entries: Vec<Entry>,
    /// Somebody waits: acknowledge at once instead of with the next lease.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub ack: bool,
}

/// `event: keys`: all public signing keys as of `rev`; ignored below the applied rev.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Keys {
    /// The position that the list is of.
    pub rev: Rev,
    /// All public signing keys.
    pub keys: Vec<Jwk>,
}

/// The body of `POST …/acks`: an acknowledgement that asks for a lease.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AckRequest {
    /// Who asks.
    pub instance: InstanceId,
    /// Its secret.
    pub instance_secret: SecretString,
    /// The generation that it follows.
    pub epoch: Epoch,
    /// The position that every verdict from now on rests on.
    pub applied: Rev,
    /// A relay's: what everyone below it has in force, which is then what is acknowledged. Without it, that is `applied`.
    #[serde(default)]
    pub enforced: Option<Rev>,
    /// The last `id` received, as it came.
    pub position: String,
    /// A fresh value that the answer repeats.
    pub nonce: String,
    /// The numbers of the keys that it knows, as listed; when they are not those of today, the answer brings the list.
    #[serde(default)]
    pub keys: Option<Vec<KeyId>>,
}

/// The most sightings of one call.
pub const MAX_SIGHTINGS: usize = 64;
/// The longest name of a program in a sighting, in bytes; what is longer is cut off.
pub const MAX_SEEN_AGENT: usize = 200;

/// The network that an address is in, by its first address: 24 bits of an IPv4 address count, 56 of an IPv6 address.
pub fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() & (u32::MAX << 8)).into()),
        IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & (u128::MAX << 72)).into()),
    }
}

/// The body of `POST …/sightings`: in which networks a service was shown access tokens. A call of its own beside the acknowledgement, so
/// that no lease hangs on whether a server knows it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SightingsRequest {
    /// Who tells.
    pub instance: InstanceId,
    /// Its secret.
    pub instance_secret: SecretString,
    /// What was seen, at most [`MAX_SIGHTINGS`].
    pub sightings: Vec<Sighting>,
}

/// A session's access token was shown to a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sighting {
    /// The token's `sid`.
    pub session: SessionId,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
    /// The address that it came from without its end: of an IPv4 address 24 bits, of an IPv6 address 56.
    pub network: String,
    /// `User-Agent`, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// What an acknowledgement brings of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Tail {
    /// The entries after `applied`, without a gap.
    Entries(Vec<Entry>),
    /// Too many, or pruned: pull a snapshot.
    Snapshot,
}

impl Serialize for Tail {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Entries(entries) => entries.serialize(s),
            Self::Snapshot => s.serialize_str("snapshot"),
        }
    }
}

impl<'de> Deserialize<'de> for Tail {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Entries(Vec<Entry>),
            Word(String),
        }
        match Form::deserialize(d)? {
            Form::Entries(entries) => Ok(Self::Entries(entries)),
            Form::Word(word) if word == "snapshot" => Ok(Self::Snapshot),
            Form::Word(_) => Err(serde::de::Error::custom("neither entries nor \"snapshot\"")),
        }
    }
}

/// The answer to an acknowledgement: a lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AckAnswer {
    /// The request's.
    pub nonce: String,
    /// The log's generation.
    pub epoch: Epoch,
    /// The head that was read.
    pub head: Rev,
    /// Chain link at `head`.
    pub chain: Chain,
    /// F at that read.
    pub horizon_floor: Time,
    /// How long before the nonce arrived the read of the head began, in milliseconds; 0 when after.
    pub age_ms: u64,
    /// The database's time at that read: lets a verifier judge `exp` whatever its own clock says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// The `id` that stands for `head`, to be given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<String>,
    /// What the verifier has not applied yet.
    pub entries: Tail,
    /// All public signing keys as of `head`, unless the question named them: a lease is worth nothing to who does not know the
    /// keys. A list whose highest number is below that of a list which came before is older, and ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<Jwk>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_there_and_back() {
        let text = r#"{"rev":7,"verb":"end","scope":"account","id":"acc_00000000000000000000000001","except":"ses_00000000000000000000000002","until":"2026-01-01T00:00:00.000Z"}"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!(entry.target, Target::Account(AccountId::from_bits(1)));
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
    }

    #[test]
    fn what_is_not_understood_is_kept() {
        let text = r#"{"rev":7,"verb":"melt","scope":"tenant","id":"x","until":"2026-01-01T00:00:00.000Z"}"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!(entry.verb, Verb::Other("melt".into()));
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        let entry: Entry = serde_json::from_str(
            r#"{"rev":7,"verb":"end","scope":"account","id":"nonsense","until":"2026-01-01T00:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!(entry.target, Target::Other { scope: "account".into(), id: "nonsense".into() });
    }
}
