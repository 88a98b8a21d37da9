//! Rows and chance for rule tests.
use portcullis_domain::amr::Amr;
use portcullis_domain::changes::Change;
use portcullis_domain::family::{Family, MacKey};
use portcullis_domain::model::*;
use portcullis_domain::view::*;
use portcullis_domain::{Chance, Changes, Cut, Rules};
use portcullis_wire::*;

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
        late_retry_at_home: 14 * 86_400_000,
        require_verified_email: false,
    }
}

pub fn key() -> MacKey {
    MacKey::new(KeyId(3), &SecretBytes::new([9u8; 32]))
}

pub fn stamp(now: Time) -> Stamp {
    let log = LogId::from_bits(1);
    Stamp {
        log,
        epoch: Epoch(1),
        head: Rev(10),
        chain: Chain::genesis(log),
        horizon: now.plus(3_600_000),
        floor: now.minus(10_000),
        all: Cut::default(),
        worked_off: Rev::ZERO,
        now,
    }
}

pub fn account() -> Account {
    Account {
        id: AccountId::from_bits(1),
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
    }
}

pub const START: Time = Time(1_800_000_000_000);

pub fn view(now: Time) -> RefreshView {
    let session = Session {
        id: SessionId::from_bits(2),
        account: AccountId::from_bits(1),
        kind: SessionKind::App,
        client: None,
        device_name: "a phone".into(),
        agent: portcullis_domain::device::family(Some("curl/8")),
        ip: None,
        created_at: START,
        auth_time: START,
        amr: Amr::default(),
        last_seen_at: START,
        absolute_expires_at: START.plus(rules().absolute_ttl),
        born: Rev(10),
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let grant = Grant {
        id: GrantId::from_bits(3),
        session: session.id,
        client: ClientId::FIRST_PARTY,
        scope: "account".into(),
        audience: None,
        sender: None,
        agent: None,
        born: Rev(10),
        proof: None,
        network: None,
        family: Family::new([7; 32], KeyId(3), Epoch(1), START),
        ended: None,
    };
    RefreshView {
        access_ttl: None,
        stamp: stamp(now),
        grant,
        session,
        account: account(),
        client_cut: Cut::default(),
        client_disabled: false,
        refreshed_at: None,
        standing: None,
    }
}

/// Applies what a refresh may change to the one row, as a store would.
pub fn apply(view: &mut RefreshView, changes: &Changes, at: Time) {
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
            Change::Revoke(revoke) => {
                view.session.ended = Some(Ended { rev: Rev(11), reason: revoke.reason.clone(), at });
            }
            other => panic!("a refresh does not change {other:?}"),
        }
    }
}
