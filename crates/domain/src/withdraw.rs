//! Taking back what an account allowed a client.
use crate::changes::{Change, Changes, Expect};
use crate::event::NewEvent;
use crate::kernel::{self, By, Door, Scope};
use crate::model::Consent;
use crate::view::GrantView;
use crate::{Chance, Decision};
use alloc::vec::Vec;
use portcullis_wire::{AccountId, ClientId, SessionId, TokenId};

/// Everything that a client has of an account ends: its own sessions there, its grants under others, and by the next
/// generation what is on its way. A grant that the decision has not seen makes it a Conflict, so none slips through.
pub fn withdraw(
    account: AccountId,
    consent: &Consent,
    grants: &[GrantView],
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Decision<()> {
    let client = consent.client;
    let besides = grants.iter().map(|view| view.grant.id).collect();
    let mut changes = ends(account, client, grants, by, chance);
    changes.steps.insert(0, Change::WithdrawConsent { account, client, generation: consent.generation });
    changes.expects.push(Expect::NoOtherGrants { account, client, besides });
    Decision { outcome: Ok(()), changes }
}

/// The ends of these grants, with one record for all.
pub fn ends(
    account: AccountId,
    client: ClientId,
    grants: &[GrantView],
    by: &By<'_>,
    chance: &mut dyn Chance,
) -> Changes {
    let mut changes = Changes { expects: by.expects().into_iter().collect(), ..Changes::default() };
    let own = |view: &GrantView| match view.session.client == Some(client) {
        true => Scope::Session { account, session: view.session.id },
        false => Scope::Grant { account, session: view.session.id, grant: view.grant.id },
    };
    let mut scopes: Vec<Scope> = grants.iter().map(own).collect();
    // Nothing lives: an entry that matches nothing moves the log on, so that the act has its rev.
    if scopes.is_empty() {
        let token = TokenId::from_bits(chance.bits());
        scopes.push(Scope::Token { account, session: SessionId::from_bits(0), token });
    }
    for (n, scope) in scopes.into_iter().enumerate() {
        let one = kernel::end(Door::ConsentWithdrawn, scope, None, by, chance);
        changes.expects.extend(one.expects.into_iter().filter(|expect| !matches!(expect, Expect::Alive { .. })));
        changes.steps.extend(one.steps);
        if n == 0 {
            let about = |event: NewEvent| match by.actor.session() {
                Some(session) => event.session(session).client(client),
                None => event.client(client),
            };
            changes.events.extend(one.events.into_iter().map(about));
        }
    }
    changes
}
