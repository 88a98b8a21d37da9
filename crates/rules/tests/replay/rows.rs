//! A row of a store, changed as a store would change it, for the rules for refresh tokens: that of `domain`'s own tests.
#[path = "../../../domain/tests/rules/world.rs"]
mod world;

use portcullis_domain::family::Family;
use portcullis_domain::model::{Account, Grant, Session};
use portcullis_domain::view::RefreshView;
use portcullis_domain::{Changes, device};
use portcullis_wire::{AccountId, Epoch, GrantId, KeyId, SessionId, Time};
pub use world::{START, Seeded, key, rules};

/// The row of a session that was made at `now` with this browser.
pub fn made(account: AccountId, session: SessionId, agent: &str, now: Time) -> RefreshView {
    let row = world::view(now);
    let session = Session {
        id: session,
        account,
        agent: device::family(Some(agent)),
        created_at: now,
        auth_time: now,
        last_seen_at: now,
        absolute_expires_at: now.plus(rules().absolute_ttl),
        ..row.session
    };
    let grant = Grant {
        id: GrantId::from_bits(session.id.bits()),
        session: session.id,
        family: Family::new([7; 32], KeyId(3), Epoch(1), now),
        ..row.grant
    };
    RefreshView { session, grant, account: Account { id: account, ..row.account }, ..row }
}

/// Applies what a refresh may change to the one row; what it ends is the caller's to see.
pub fn apply(view: &mut RefreshView, changes: &Changes) {
    let (ended, now) = (view.session.ended.clone(), view.stamp.now);
    world::apply(view, changes, now);
    view.session.ended = ended;
}
