//! Whose turn it is: what slow, dead and hostile receivers can take from others.
use crate::world::Seeded;
use portcullis_domain::model::SessionKind;
use portcullis_domain::outbox::{self, Ending, Message};
use portcullis_domain::receivers::*;
use portcullis_wire::{AccountId, ClientId, Epoch, GrantId, Rev, SessionId, Time};
use std::collections::BTreeMap;

fn client(n: u128) -> ClientId {
    ClientId::from_bits(n)
}

/// A message for each of them, the first ones due the longest.
fn due(clients: impl IntoIterator<Item = u128>) -> Vec<Message> {
    let session = portcullis_domain::model::Session {
        id: SessionId::from_bits(1),
        account: AccountId::from_bits(2),
        kind: SessionKind::Browser,
        client: None,
        device_name: String::new(),
        agent: String::new(),
        ip: None,
        created_at: Time(0),
        auth_time: Time(0),
        amr: portcullis_domain::amr::Amr::default(),
        last_seen_at: Time(0),
        absolute_expires_at: Time(1_000),
        born: Rev(1),
        epoch: Epoch(1),
        cookie: None,
        old_cookie: None,
        allowed_in: None,
        ended: None,
    };
    let mut chance = Seeded(1);
    let of = |(at, n)| outbox::logout(client(n), session.account, session.id, Time(at as i64), &mut chance);
    clients.into_iter().enumerate().map(of).collect()
}

/// A world in which each client has an endless backlog, and answers after so long: how many messages each got within a time.
fn served(takes: &BTreeMap<u128, i64>, until: i64) -> BTreeMap<u128, u32> {
    let (mut receivers, mut chance) = (Receivers::new(), Seeded(7));
    let mut under_way: Vec<(i64, i64, u128)> = vec![];
    let mut got: BTreeMap<u128, u32> = takes.keys().map(|n| (*n, 0)).collect();
    let mut now = 0;
    while now < until {
        let busy = receivers.busy(Time(now));
        let begin = receivers.in_turn(due(takes.keys().copied().filter(|n| !busy.contains(&client(*n)))));
        let mut begun = false;
        for message in begin {
            if receivers.may_be_called(message.client, Time(now)) {
                receivers.left(message.client);
                let n = takes.keys().copied().find(|n| Some(client(*n)) == message.client).unwrap();
                under_way.push((now + takes[&n], takes[&n], n));
                begun = true;
            }
        }
        assert!(under_way.len() <= PLACES);
        for n in takes.keys() {
            assert!(under_way.iter().filter(|(_, _, of)| of == n).count() <= EACH);
        }
        if begun {
            continue;
        }
        under_way.sort();
        let (at, took, n) = under_way.remove(0);
        now = at;
        *got.get_mut(&n).unwrap() += 1;
        receivers.arrived(Some(client(n)), true, took, Time(now), &mut chance);
    }
    got
}

#[test]
fn slow_receivers_leave_places_for_the_rest() {
    // A dozen who answer just in time, with backlogs that are older than anybody's, and three who are quick.
    let takes: BTreeMap<u128, i64> = (0..12).map(|n| (n, 9_500)).chain((12..15).map(|n| (n, 100))).collect();
    let got = served(&takes, 100_000);
    for n in 12..15 {
        // Some at once, for all but the time until they were called first.
        assert!(got[&n] > 1_500, "{n}: {}", got[&n]);
    }
    let slow: Vec<u32> = (0..12).map(|n| got[&n]).collect();
    assert!(slow.iter().all(|n| (3..=7).contains(n)), "in turn: {slow:?}");
}

#[test]
fn nobody_takes_all_of_what_is_left() {
    // Thirty who are as slow as one may be who counts as quick, and the last one, whose messages are the youngest.
    let takes: BTreeMap<u128, i64> = (0..30).map(|n| (n, SLOW)).chain([(30, 10)]).collect();
    let got = served(&takes, 100_000);
    let (least, most) = ((0..30).map(|n| got[&n]).min().unwrap(), (0..30).map(|n| got[&n]).max().unwrap());
    assert!(most - least <= 12, "in turn: {got:?}");
    assert!(got[&30] >= least, "{got:?}");
}

#[test]
fn who_fails_is_left_alone_and_comes_back() {
    let (mut receivers, mut chance, one) = (Receivers::new(), Seeded(3), Some(client(1)));
    let mut now = 0;
    for n in 1..=20 {
        assert!(receivers.may_be_called(one, Time(now)));
        receivers.left(one);
        assert!(!receivers.may_be_called(one, Time(now)), "one at once");
        receivers.arrived(one, false, 5, Time(now), &mut chance);
        assert_eq!(receivers.is_failing(client(1)), n >= FAILING);
        assert!(!receivers.may_be_called(one, Time(now + 2_000)));
        assert!(receivers.may_be_called(one, Time(now + LONGEST_REST)));
        now += LONGEST_REST;
    }
    receivers.left(one);
    receivers.arrived(one, true, 5, Time(now), &mut chance);
    assert!(!receivers.is_failing(client(1)));
    for _ in 0..EACH {
        assert!(receivers.may_be_called(one, Time(now)));
        receivers.left(one);
    }
    assert!(!receivers.may_be_called(one, Time(now)));
}

#[test]
fn as_many_are_remembered_as_may_be() {
    let (mut receivers, mut chance) = (Receivers::new(), Seeded(3));
    for n in 0..MOST_KNOWN as u128 + 50 {
        receivers.left(Some(client(n)));
        receivers.arrived(Some(client(n)), false, 5, Time(0), &mut chance);
    }
    assert_eq!(receivers.busy(Time(0)).len(), MOST_KNOWN);
    assert_eq!(receivers.free(), PLACES);
}

#[test]
fn a_client_that_takes_nothing_holds_up_nobody() {
    let limits = QueueLimits { each: 100, all: 1_000, held_up: 60_000 };
    let (all, one) = (Ending::All { except: None }, Ending::Session(SessionId::from_bits(1)));
    let grant = Ending::Grant { session: SessionId::from_bits(1), grant: GrantId::from_bits(1) };
    let queue = |waiting, since: i64| Queue { waiting, due_since: Some(Time(since)) };
    let now = Time(100_000);
    let room = |queue, waiting, failing, what| limits.room(queue, waiting, failing, what, now);
    assert_eq!(room(Queue::default(), 0, true, all), Room::Free);
    assert_eq!(room(queue(99, 0), 0, true, all), Room::Free, "also for one that is down");
    // Full: what is taken is waited for, and no longer than it is taken.
    assert_eq!(room(queue(100, 99_000), 0, false, all), Room::Later);
    assert_eq!(room(queue(100, 40_001), 0, false, all), Room::Later);
    assert_eq!(room(queue(100, 40_000), 0, false, all), Room::None);
    assert_eq!(room(queue(100, 99_000), 0, true, all), Room::None);
    // A single session never waits behind a large end.
    for what in [one, grant] {
        assert_eq!(room(queue(199, 99_000), 0, false, what), Room::Free);
        assert_eq!(room(queue(200, 99_000), 0, false, what), Room::None);
    }
    // Where much waits in all, each has less; who has little waiting has room in any case.
    assert_eq!(room(queue(9, 99_000), 500, true, all), Room::Free);
    assert_eq!(room(queue(10, 99_000), 500, true, all), Room::None);
    assert_eq!(room(Queue::default(), 1_000_000, true, all), Room::Free);
    assert_eq!(room(queue(1, 99_000), 1_000, true, all), Room::None);
}

/// How long the messages of `one`, a new one each second, waited until they were sent, while 5,000 others have something due that
/// are dead: each call to them takes as long as a connection may, in vain. Looks as `app::outbox` does.
fn waits(receivers: &mut Receivers, one: ClientId, is_stranger: impl Fn(ClientId) -> bool, tried: bool) -> Vec<i64> {
    let mut chance = Seeded(11);
    let (dead, mine) = (due((0..5_000).map(|n| n * 7 + 3)), due([17_501]));
    let dead = dead.into_iter().map(|row| Message { tries: u32::from(tried), ..row });
    let mine = mine.into_iter().map(|row| Message { next_at: Time(1_000_000), ..row });
    let rows: BTreeMap<ClientId, Message> = dead.chain(mine).map(|row| (row.client.unwrap(), row)).collect();
    let (mut under_way, mut since, mut waited): (Vec<(i64, ClientId)>, i64, Vec<i64>) = (vec![], 0, vec![]);
    let mut now = 0;
    while now < 8_000 {
        let (busy, mut found, mut round) = (receivers.busy(Time(now)), vec![], receivers.looks_on());
        let rests = |client: &ClientId| busy.binary_search(client).is_ok() || (*client == one && since > now);
        for _ in 0..8 {
            let from = round.after().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let window: Vec<&ClientId> =
                rows.range((from, std::ops::Bound::Unbounded)).map(|(id, _)| id).take(501).collect();
            found.extend(window.iter().take(500).filter(|id| !rests(id)).map(|id| rows[*id].clone()));
            if round.went_to((window.len() > 500).then(|| *window[499])) {
                break;
            }
        }
        receivers.looked(round);
        let mut to_meet = 100;
        for message in receivers.in_turn(found) {
            let id = message.client.unwrap();
            if !receivers.may_be_called(Some(id), Time(now)) {
                continue;
            }
            if !receivers.knows(Some(id)) {
                if to_meet == 0 {
                    continue;
                }
                to_meet -= 1;
                receivers.meets(id, is_stranger(id));
                if !receivers.may_be_called(Some(id), Time(now)) {
                    continue;
                }
            }
            receivers.left(Some(id));
            under_way.push((now + if id == one { 50 } else { 3_000 }, id));
            if id == one {
                waited.push(now - since);
                since += 1_000;
            }
        }
        now += if to_meet == 0 { 20 } else { 250 };
        for (at, id) in under_way.extract_if(.., |(at, _)| *at <= now) {
            receivers.arrived(Some(id), id == one, if id == one { 50 } else { 3_000 }, Time(at), &mut chance);
        }
    }
    waited
}

#[test]
fn five_thousand_dead_receivers_hide_nobody() {
    let one = client(17_501);
    let all_sent = |waits: &[i64]| {
        assert!(waits.len() >= 7 && waits.iter().all(|wait| *wait <= 2_500), "{waits:?}");
    };
    // Who was quick before.
    let (mut receivers, mut chance) = (Receivers::new(), Seeded(5));
    receivers.left(Some(one));
    receivers.arrived(Some(one), true, 50, Time(0), &mut chance);
    all_sent(&waits(&mut receivers, one, |_| false, false));
    // Who was never called by this node, beside those that were tried in vain by another.
    all_sent(&waits(&mut Receivers::new(), one, |_| false, true));
    // Who was never called at all, beside those that registered themselves.
    all_sent(&waits(&mut Receivers::new(), one, |id| id != one, false));
}

/// However many there are, some at a time, and wherever a look begins: each is looked at, and once around is enough.
#[test]
fn looks_go_around() {
    let (mut receivers, all) = (Receivers::new(), 1..=23_u128);
    for step in 1..30 {
        let mut seen: BTreeMap<u128, usize> = all.clone().map(|n| (n, 0)).collect();
        for _ in 0..30 {
            let (mut round, mut reads) = (receivers.looks_on(), 0);
            loop {
                let ids = all.clone().filter(|n| round.after().is_none_or(|after| client(*n) > after));
                let window: Vec<u128> = ids.take(step + 1).collect();
                for n in window.iter().take(step) {
                    *seen.get_mut(n).unwrap() += 1;
                }
                reads += 1;
                if round.went_to((window.len() > step).then(|| client(window[step - 1]))) || reads == 4 {
                    break;
                }
            }
            assert!((reads - 1) * step <= 23 + step, "{step}: {reads}");
            receivers.looked(round);
        }
        let (least, most) = (seen.values().min().unwrap(), seen.values().max().unwrap());
        assert!(*least > 0 && *least * 3 >= *most, "{step}: {seen:?}");
    }
}

#[test]
fn strangers_leave_places_for_slow_and_new_ones_that_somebody_vouches_for() {
    let (mut receivers, mut chance) = (Receivers::new(), Seeded(3));
    for n in 0..40 {
        receivers.meets(client(n), true);
    }
    assert!(receivers.knows(Some(client(7))) && receivers.knows(None) && !receivers.knows(Some(client(50))));
    let mut called = vec![];
    for n in 0..40 {
        if receivers.may_be_called(Some(client(n)), Time(0)) {
            receivers.left(Some(client(n)));
            called.push(n);
        }
    }
    assert_eq!(called.len(), FOR_STRANGERS);
    for n in 50..60 {
        let fits = receivers.may_be_called(Some(client(n)), Time(0));
        assert_eq!(fits, n < 50 + (FOR_NEW - FOR_STRANGERS) as u128, "{n}");
        if fits {
            receivers.left(Some(client(n)));
        }
    }
    // The same for those that are slow.
    for n in called.into_iter().chain(50..52) {
        receivers.arrived(Some(client(n)), true, SLOW + 1, Time(0), &mut chance);
    }
    receivers.meets(client(2), true);
    receivers.left(Some(client(2)));
    receivers.arrived(Some(client(2)), true, SLOW + 1, Time(0), &mut chance);
    for n in 0..2 {
        receivers.left(Some(client(n)));
    }
    assert!(!receivers.may_be_called(Some(client(2)), Time(0)));
    assert!(receivers.may_be_called(Some(client(50)), Time(0)));
}
