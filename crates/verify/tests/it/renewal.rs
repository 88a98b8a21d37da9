//! Tokens shown on an open connection (I14).
use crate::support::claims;
use portcullis_verify::{NotTheSame, Shown, renewal};
use portcullis_wire::claims::Actor;
use portcullis_wire::{AccessClaims, AccountId, ClientId, Epoch, GrantId, Rev, SessionId};

fn with(change: impl FnOnce(&mut AccessClaims)) -> AccessClaims {
    let mut claims = claims();
    change(&mut claims);
    claims
}

#[test]
fn what_can_be_ended_by_itself_must_stay_the_same() {
    let on = claims();
    let later = |change: &dyn Fn(&mut AccessClaims)| {
        with(|c| {
            c.exp += 100;
            change(c);
        })
    };
    let actor = Some(Box::new(Actor { sub: AccountId::from_bits(9), act: None }));
    for (shown, why) in [
        (later(&|c| c.sub = AccountId::from_bits(9)), NotTheSame::Account),
        (later(&|c| c.act = actor.clone()), NotTheSame::Account),
        (later(&|c| c.sid = SessionId::from_bits(9)), NotTheSame::Session),
        (later(&|c| c.client_id = ClientId::from_bits(9)), NotTheSame::Client),
        // Exchanged, too, but from what another client had been given: what ends that one would miss the connection.
        (later(&|c| c.via = vec![ClientId::from_bits(9)]), NotTheSame::Client),
    ] {
        assert_eq!(renewal(&on, &shown), Err(why));
        assert_eq!(renewal(&shown, &on), Err(why));
    }
    // Consent given anew makes another grant of the same client.
    assert_eq!(renewal(&on, &later(&|c| c.gid = Some(GrantId::from_bits(9)))), Ok(Shown::Newest));
    assert_eq!(renewal(&on, &later(&|c| c.roles = vec!["admin".into()])), Ok(Shown::Newest));
}

#[test]
fn the_newest_is_what_was_minted_last() {
    // In the order of their making, each with something that could mislead.
    let minted = [
        with(|c| c.exp += 50),
        with(|c| (c.iat, c.exp) = (c.iat + 1, c.exp - 60)),
        with(|c| (c.iat, c.exp) = (c.iat + 1, c.exp - 59)),
        with(|c| (c.rev, c.iat, c.exp) = (Rev(11), c.iat + 1, c.exp - 90)),
        with(|c| (c.epoch, c.rev, c.exp) = (Epoch(2), Rev(3), c.exp - 100)),
    ];
    for (a, on) in minted.iter().enumerate() {
        for (b, shown) in minted.iter().enumerate() {
            assert_eq!(renewal(on, shown), Ok(if b > a { Shown::Newest } else { Shown::Older }), "{b} on {a}");
        }
    }
}
