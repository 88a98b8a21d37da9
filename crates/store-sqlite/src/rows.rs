//! Rows as domain types. Each type has its column list, in the order in which its reader takes the columns.
use crate::cells::{Cells, Fault};
use portcullis_domain::Cut;
use portcullis_domain::amr::Amr;
use portcullis_domain::audit::{Attested, ChainRow, Hidden, Hides, Place, Seal, Start};
use portcullis_domain::changes::BoundRow;
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::model::{
    Account, Block, Client, ClientKind, Consent, Ended, Grant, Instance, Key, KeyPurpose, OldCookie, Session,
    SessionKind, Status,
};
use portcullis_domain::proof::Proof;
use portcullis_domain::ticket::{Ticket, TicketKind, Used};
use portcullis_domain::view::Stamp;
use portcullis_store::{EventRow, Remembered};
use portcullis_wire::{Chain, Digest, Entry, Epoch, KeyId, LogId, Rev, Target, Time, Verb};

/// The counter's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) log: LogId,
    pub(crate) epoch: Epoch,
    pub(crate) head: Rev,
    pub(crate) chain: Chain,
    pub(crate) horizon: Time,
    pub(crate) floor: Time,
    pub(crate) all: Cut,
    pub(crate) forgotten: Rev,
    pub(crate) bound: Option<BoundRow>,
    /// How many rules of revocations by filter stand.
    pub(crate) standing: u32,
    /// The newest such rule that was worked off and taken away.
    pub(crate) worked_off: Rev,
}

macro_rules! meta_columns {
    () => {
        "m.one, m.log, m.epoch, m.head, m.chain, m.horizon, m.floor, m.cut_rev, m.cut_except, \
         m.forgotten, m.bound_now_ms, m.bound_next_ms, m.bound_next_from, m.standing, m.worked_off"
    };
}
pub(crate) use meta_columns;

impl Meta {
    pub(crate) fn read(cells: &mut Cells<'_, '_>) -> Result<Self, Fault> {
        cells.table("meta").get::<i64>()?;
        let (log, epoch, head) = (cells.id()?, Epoch(cells.get()?), cells.rev()?);
        let (chain, horizon, floor) = (Chain(cells.get()?), cells.time()?, cells.time()?);
        let (all, forgotten) = (cells.cut()?, cells.rev()?);
        let bound = match (cells.u64_if()?, cells.u64_if()?, cells.time_if()?) {
            (Some(current_ms), Some(next_ms), Some(next_from)) => Some(BoundRow { current_ms, next_ms, next_from }),
            (None, None, None) => None,
            _ => return Err(cells.wrong("the bound has only some of its three columns")),
        };
        let (standing, worked_off) = (cells.get()?, cells.rev()?);
        Ok(Self { log, epoch, head, chain, horizon, floor, all, forgotten, bound, standing, worked_off })
    }

    pub(crate) fn stamp(&self, now: Time) -> Stamp {
        let Self { log, epoch, head, chain, horizon, floor, all, worked_off, .. } = *self;
        Stamp { log, epoch, head, chain, horizon, floor, all, worked_off, now }
    }
}

macro_rules! account_columns {
    () => {
        "a.id, a.email, a.name, a.password_hash, a.password_version, a.roles, a.status, a.status_reason, \
         a.status_actor, a.status_at, a.status_until, a.status_rev, a.created_at, a.cut_rev, a.cut_except, a.version, a.email_verified_at"
    };
}
pub(crate) use account_columns;

pub(crate) fn account(cells: &mut Cells<'_, '_>) -> Result<Account, Fault> {
    Ok(Account {
        id: cells.table("accounts").id()?,
        email: cells.get()?,
        name: cells.get()?,
        password_hash: cells.get()?,
        password_version: cells.get()?,
        roles: cells.roles()?,
        status: status(cells)?,
        created_at: cells.time()?,
        cut: cells.cut()?,
        version: cells.get()?,
        email_verified_at: cells.time_if()?,
    })
}

fn status(cells: &mut Cells<'_, '_>) -> Result<Status, Fault> {
    let word = cells.text()?;
    if word == "active" {
        cells.pass(5);
        return Ok(Status::Active);
    }
    let (reason, actor) = (cells.get::<Option<String>>()?, cells.get::<Option<String>>()?);
    let (at, until, rev) = (cells.time_if()?, cells.time_if()?, cells.rev_if()?);
    match (word, reason, actor, at, until, rev) {
        ("blocked", Some(reason), Some(actor), Some(at), until, _) => {
            Ok(Status::Blocked(Block { reason, actor, at, until }))
        }
        ("deleting", _, _, Some(at), Some(until), Some(rev)) => Ok(Status::Deleting { at, until, rev }),
        ("deleted", _, _, Some(at), _, Some(rev)) => Ok(Status::Deleted { at, rev }),
        _ => Err(cells.wrong(format_args!("the status {word:?} is not known to this program, or lacks its columns"))),
    }
}

macro_rules! session_columns {
    () => {
        "s.id, s.account, s.kind, s.device_name, s.agent, s.ip, s.created_at, s.auth_time, s.last_seen_at, \
         s.absolute_expires_at, s.born, s.epoch, s.cookie, s.ended_rev, s.ended_reason, s.ended_at, s.client, s.amr, \
         s.old_cookie, s.old_auth_time, s.old_until, s.old_amr, s.allowed_in"
    };
}
pub(crate) use session_columns;

pub(crate) fn session(cells: &mut Cells<'_, '_>) -> Result<Session, Fault> {
    Ok(Session {
        id: cells.table("sessions").id()?,
        account: cells.id()?,
        kind: cells.word(SessionKind::parse)?,
        device_name: cells.get()?,
        agent: cells.get()?,
        ip: cells.ip_if()?,
        created_at: cells.time()?,
        auth_time: cells.time()?,
        last_seen_at: cells.time()?,
        absolute_expires_at: cells.time()?,
        born: cells.rev()?,
        epoch: Epoch(cells.get()?),
        cookie: cells.digest_if()?,
        ended: match (cells.rev_if()?, cells.get()?, cells.time_if()?) {
            (Some(rev), Some(reason), Some(at)) => Some(Ended { rev, reason, at }),
            (None, None, None) => None,
            _ => return Err(cells.wrong("ended has only some of its three columns")),
        },
        client: cells.id_if()?,
        amr: Amr::read(cells.get()?),
        old_cookie: match (cells.digest_if()?, cells.time_if()?, cells.time_if()?, Amr::read_told(cells.get()?)) {
            (Some(digest), Some(at), Some(until), amr) => Some(OldCookie { digest, proof: Proof { at, amr }, until }),
            (None, None, None, _) => None,
            _ => return Err(cells.wrong("the old cookie has only some of its columns")),
        },
        allowed_in: cells.id_if()?,
    })
}

macro_rules! grant_columns {
    () => {
        "g.id, g.session, g.client, g.scope, g.born, g.secret, g.mac_key, g.epoch, g.counter, g.made_at, g.handed_at, \
         g.handouts, g.predecessor, g.ended_rev, g.audience, g.sender, g.agent, g.auth_time, g.amr, g.network"
    };
}
pub(crate) use grant_columns;

pub(crate) fn grant(cells: &mut Cells<'_, '_>) -> Result<Grant, Fault> {
    Ok(Grant {
        id: cells.table("grants").id()?,
        session: cells.id()?,
        client: cells.id()?,
        scope: cells.get()?,
        born: cells.rev()?,
        family: Family {
            secret: cells.get()?,
            key: KeyId(cells.get()?),
            epoch: Epoch(cells.get()?),
            counter: cells.u64()?,
            made_at: cells.time()?,
            handed_at: cells.time()?,
            handouts: cells.get()?,
            predecessor: cells.u64_if()?,
        },
        ended: cells.rev_if()?,
        audience: cells.get()?,
        sender: cells.digest_if()?,
        agent: cells.get()?,
        proof: {
            let (at, amr) = (cells.time_if()?, Amr::read(cells.get()?));
            at.map(|at| Proof { at, amr })
        },
        network: cells.get()?,
    })
}

macro_rules! client_columns {
    () => {
        "c.id, c.name, c.kind, c.secret, c.disabled, c.created_at, c.cut_rev, c.cut_except, c.old_secret, \
         c.old_secret_until, c.profile, c.version"
    };
}
pub(crate) use client_columns;

pub(crate) fn client(cells: &mut Cells<'_, '_>) -> Result<Client, Fault> {
    Ok(Client {
        id: cells.table("clients").id()?,
        name: cells.get()?,
        kind: cells.word(ClientKind::parse)?,
        secret: cells.digest_if()?,
        disabled: cells.get()?,
        created_at: cells.time()?,
        cut: cells.cut()?,
        old_secret: cells.digest_if()?.zip(cells.time_if()?),
        profile: cells.word(|text| serde_json::from_str(text).ok())?,
        version: cells.get()?,
    })
}

macro_rules! consent_columns {
    () => {
        "k.account, k.client, k.scope, k.granted_at, k.generation"
    };
}
pub(crate) use consent_columns;

pub(crate) fn consent(cells: &mut Cells<'_, '_>) -> Result<Consent, Fault> {
    Ok(Consent {
        account: cells.table("consents").id()?,
        client: cells.id()?,
        scope: cells.get()?,
        granted_at: cells.time()?,
        generation: cells.get()?,
    })
}

macro_rules! ticket_columns {
    () => {
        "t.id, t.kind, t.account, t.session, t.client, t.born, t.epoch, t.expires_at, t.body, t.version, t.used_at, \
         t.used_grant"
    };
}
pub(crate) use ticket_columns;

pub(crate) fn ticket(cells: &mut Cells<'_, '_>) -> Result<Ticket, Fault> {
    Ok(Ticket {
        id: cells.table("tickets").digest()?,
        kind: cells.word(TicketKind::parse)?,
        account: cells.id_if()?,
        session: cells.id_if()?,
        client: cells.id_if()?,
        born: cells.rev()?,
        epoch: Epoch(cells.get()?),
        expires_at: cells.time()?,
        body: cells.get()?,
        version: cells.get()?,
        used: match (cells.time_if()?, cells.id_if()?) {
            (Some(at), grant) => Some(Used { at, grant }),
            (None, _) => None,
        },
    })
}

macro_rules! instance_columns {
    () => {
        "i.id, i.client, i.name, i.policy, i.bound_ms, i.secret, i.created_at"
    };
}
pub(crate) use instance_columns;

pub(crate) fn instance(cells: &mut Cells<'_, '_>) -> Result<Instance, Fault> {
    Ok(Instance {
        id: cells.table("instances").id()?,
        client: cells.id()?,
        name: cells.get()?,
        policy: cells.get()?,
        bound_ms: cells.u64()?,
        secret: cells.digest()?,
        created_at: cells.time()?,
    })
}

macro_rules! key_columns {
    () => {
        "k.id, k.purpose, k.public_jwk, k.sealed, k.created_at, k.active_from, k.retired_at, k.dead"
    };
}
pub(crate) use key_columns;

pub(crate) fn key(cells: &mut Cells<'_, '_>) -> Result<Key, Fault> {
    Ok(Key {
        id: KeyId(cells.table("keys").get()?),
        purpose: cells.word(KeyPurpose::parse)?,
        public_jwk: cells.get()?,
        sealed: cells.secret()?,
        created_at: cells.time()?,
        active_from: cells.time_if()?,
        retired_at: cells.time_if()?,
        dead: cells.rev_if()?,
    })
}

macro_rules! event_columns {
    () => {
        "e.id, e.kind, e.actor, e.account, e.session, e.client, e.ip, e.reason, e.at, e.rev, e.ended, \
         e.place, e.link, e.ip_seal, e.ip_salt, e.reason_seal, e.reason_salt"
    };
}
pub(crate) use event_columns;

pub(crate) fn event(cells: &mut Cells<'_, '_>) -> Result<EventRow, Fault> {
    Ok(EventRow {
        event: NewEvent {
            id: cells.table("events").id()?,
            kind: cells.word(EventKind::parse)?,
            actor: cells.get()?,
            account: cells.id_if()?,
            session: cells.id_if()?,
            client: cells.id_if()?,
            ip: cells.ip_if()?,
            reason: cells.get()?,
        },
        at: cells.time()?,
        rev: cells.rev_if()?,
        ended: cells.u64_if()?,
        seal: seal(cells)?,
    })
}

/// What stands in a record's seal and cannot be one is read as one that fits nothing: it is a finding at its place, and hides no other.
fn seal(cells: &mut Cells<'_, '_>) -> Result<Option<Seal>, Fault> {
    let (n, link) = (cells.get::<Option<i64>>()?, cells.get::<Option<Vec<u8>>>()?);
    let hides = Hides { address: hidden(cells)?, reason: hidden(cells)? };
    let place = n.map(|n| Place { n: u64::try_from(n).unwrap_or(0), link: Digest(fixed(link.as_deref())) });
    Ok(place.map(|place| Seal { place, hides }))
}

fn hidden(cells: &mut Cells<'_, '_>) -> Result<Option<Hidden>, Fault> {
    let (commitment, salt) = (cells.get::<Option<Vec<u8>>>()?, cells.get::<Option<Vec<u8>>>()?);
    let salt = salt.map(|salt| fixed(Some(&salt)));
    Ok(commitment.map(|commitment| Hidden { commitment: Digest(fixed(Some(&commitment))), salt }))
}

/// Zeros for what is not of this length: no link and no commitment is that.
fn fixed<const N: usize>(bytes: Option<&[u8]>) -> [u8; N] {
    bytes.and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

pub(crate) fn chain(cells: &mut Cells<'_, '_>) -> Result<ChainRow, Fault> {
    let key = cells.secret()?;
    let (place, mac) = (Place { n: cells.u64()?, link: cells.digest()? }, cells.digest()?);
    let head = Place { n: cells.u64()?, link: cells.digest()? };
    let start = Start { place, mac, old: cells.u64_if()? };
    let (number, n, link, mac) = (cells.u64_if()?, cells.u64_if()?, cells.digest_if()?, cells.digest_if()?);
    let attested = number.zip(n).zip(link.zip(mac));
    let attested = attested.map(|((number, n), (link, mac))| Attested { number, place: Place { n, link }, mac });
    Ok(ChainRow { key, start, head, attested })
}

macro_rules! entry_columns {
    () => {
        "l.rev, l.verb, l.scope, l.target, l.except_id, l.spread_ms, l.until"
    };
}
pub(crate) use entry_columns;

pub(crate) fn entry(cells: &mut Cells<'_, '_>) -> Result<Entry, Fault> {
    let rev = cells.table("log").rev()?;
    let verb = Verb::from_name(&cells.get::<String>()?);
    let target = Target::parse(&cells.get::<String>()?, &cells.get::<String>()?);
    Ok(Entry { rev, verb, target, except: cells.id_if()?, spread_ms: cells.u64_if()?, until: cells.time()? })
}

pub(crate) fn remembered(cells: &mut Cells<'_, '_>) -> Result<Remembered, Fault> {
    Ok(Remembered {
        request: cells.table("remembered").digest()?,
        rev: cells.rev_if()?,
        ended: cells.u64_if()?,
        made: cells.get()?,
        at: cells.time()?,
    })
}
