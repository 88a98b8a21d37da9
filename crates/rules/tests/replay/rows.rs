//! A row of a store, changed as a store would change it, for the rules for refresh tokens.
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::Change;
use portcullis_domain::family::{Family, MacKey};
use portcullis_domain::model::{Account, Grant, Session, SessionKind, Status};
use portcullis_domain::view::{RefreshView, Stamp};
use portcullis_domain::{Chance, Changes, Cut, Rules, device};
use portcullis_wire::{AccountId, Chain, ClientId, Epoch, GrantId, KeyId, LogId, Rev, SecretBytes, SessionId, Time};

/// When traces begin.
pub const START: Time = Time(1_800_000_000_000);

/// A seeded source (splitmix64).
#[derive(Debug)]
pub struct Seeded(pub u64);

impl Seeded {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

impl Chance for Seeded {
    fn bits(&mut self) -> u128 {
        (u128::from(self.next()) << 64) | u128::from(self.next())
    }
}

/// The server's defaults.
pub fn rules() -> Rules {
    Rules {
        issuer: "https://id.example".into(),
        audience: "https://id.example".into(),
        access_ttl: 300_000,
        longest_ttl: 300_000,
        idle_ttl: 30 * 86_400_000,
        absolute_ttl: 90 * 86_400_000,
        retry_window: 10_000,
        late_retry: 86_400_000,
        require_verified_email: false,
    }
}

pub fn key() -> MacKey {
    MacKey { id: KeyId(3), bytes: SecretBytes::new([9u8; 32]) }
}

/// The row of a session that was made at `now` with this browser.
pub fn made(account: AccountId, session: SessionId, agent: &str, now: Time) -> RefreshView {
    let log = LogId::from_bits(1);
    let stamp = Stamp {
        log,
        epoch: Epoch(1),
        head: Rev(10),
        chain: Chain::genesis(log),
        horizon: now.plus(3_600_000),
        floor: now.minus(10_000),
        all: Cut::default(),
        worked_off: Rev::ZERO,
        now,
    };
    let session = Session {
        id: session,
        account,
        kind: SessionKind::App,
        client: None,
        device_name: "a device".into(),
        agent: device::family(Some(agent)),
        ip: None,
        created_at: now,
        auth_time: now,
        amr: Amr::default(),
        last_seen_at: now,
        absolute_expires_at: now.plus(rules().absolute_ttl),
        born: Rev(10),
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(session.id.bits()),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        born: Rev(10),
        proof: None,
        family: Family::new([7; 32], KeyId(3), Epoch(1), now),
        network: None,
        ended: None,
    };
    let account = Account {
        id: account,
        email: Some("ada@example.org".into()),
        name: None,
        password_hash: Some("a hash".into()),
        password_version: 1,
        email_verified_at: None,
        roles: vec![],
        status: Status::Active,
        created_at: Time(0),
        cut: Cut::default(),
        version: 1,
    };
    RefreshView {
        access_ttl: None,
        stamp,
        grant,
        session,
        account,
        client_cut: Cut::default(),
        client_disabled: false,
        refreshed_at: None,
        standing: None,
    }
}

/// Applies what a refresh may change to the one row; what it ends is the caller's to see.
pub fn apply(view: &mut RefreshView, changes: &Changes) {
    for step in &changes.steps {
        match step {
            Change::SetFamily { counter, predecessor, family, .. } => {
                assert_eq!((*counter, *predecessor), (view.grant.family.counter, view.grant.family.predecessor));
                view.grant.family = family.clone();
            }
            Change::HandOut { counter, at, .. } => {
                assert_eq!(*counter, view.grant.family.counter);
                view.grant.family.handed_at = view.grant.family.handed_at.max(*at);
                view.grant.family.handouts += 1;
            }
            Change::Revoke(_) => {}
            other => panic!("a refresh does not change {other:?}"),
        }
    }
}
