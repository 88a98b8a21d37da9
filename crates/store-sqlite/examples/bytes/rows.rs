//! The rows of a sign-in as the server commits it, for the measurements of every store.
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{Actor, EventKind, NewEvent};
use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::{Cut, device};
use portcullis_wire::{AccountId, ClientId, Epoch, EventId, GrantId, KeyId, Rev, SessionId, Time};

/// When all of it happens.
pub const NOW: Time = Time(1_700_000_000_000);
const AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// SplitMix64: ids that are spread as real ones are.
fn id(n: u64, kind: u64) -> u128 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let seed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(kind);
    (u128::from(mix(seed)) << 64) | u128::from(mix(seed ^ 0xabcd_ef01))
}

/// An account.
pub fn account(n: u64) -> Change {
    Change::InsertAccount(Account {
        id: AccountId::from_bits(id(n, 1)),
        email: Some(format!("user{n}@example.org")),
        name: None,
        password_hash: Some(format!("$argon2id$v=19$m=19456,t=2,p=1${}${}", "c".repeat(22), "d".repeat(43))),
        password_version: 1,
        email_verified_at: None,
        roles: vec![],
        status: Status::Active,
        created_at: NOW,
        cut: Cut::default(),
        version: 1,
    })
}

/// The n-th sign-in, of the account n / 4.
pub fn sign_in(n: u64) -> Changes {
    let account = AccountId::from_bits(id(n / 4, 1));
    let ip = Some([203, 0, 113, (n % 250) as u8].into());
    let session = Session {
        id: SessionId::from_bits(id(n, 2)),
        account,
        kind: SessionKind::App,
        client: None,
        device_name: device::name_from_agent(Some(AGENT)),
        agent: device::family(Some(AGENT)),
        ip,
        created_at: NOW,
        auth_time: NOW,
        amr: Amr::default(),
        last_seen_at: NOW,
        absolute_expires_at: NOW.plus(180 * 86_400_000),
        born: Rev(n % 10_000),
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let mut family = Family::new([7; 32], KeyId(2), Epoch(1), NOW);
    if n.is_multiple_of(2) {
        (family.counter, family.predecessor) = (2, Some(1));
    }
    let grant = Grant {
        id: GrantId::from_bits(id(n, 3)),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        proof: None,
        born: session.born,
        network: Some([n as u8; 8]),
        family,
        ended: None,
    };
    let actor = Actor::Account { account, session: session.id };
    let event = NewEvent::new(EventId::from_bits(id(n, 4)), EventKind::SessionStarted, &actor);
    let events = vec![event.account(account).session(session.id).ip(ip)];
    let steps = vec![Change::InsertSession(session), Change::InsertGrant(grant)];
    Changes { steps, events, ..Changes::default() }
}
