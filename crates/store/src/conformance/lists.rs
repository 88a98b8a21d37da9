//! Lists: complete, in order, page by page.
use super::{Backend, World, account, end, wait};
use crate::{EventFilter, EventRow, Page};
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::event::{EventKind, NewEvent};
use portcullis_domain::model::{Account, Client, ClientKind, Status};
use portcullis_wire::{AccountId, ClientId, EventId, Rev, SessionId, Target};

/// Walks a list with pages of `limit` rows.
fn walk<T, C: Copy>(limit: u32, page: impl Fn(Option<C>, u32) -> Page<T>, cursor: impl Fn(&T) -> C) -> Vec<T> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = page(after, limit);
        assert!(page.rows.len() <= limit as usize);
        assert!(!page.more || page.rows.len() == limit as usize, "a page is full while there is more");
        after = page.rows.last().map(&cursor).or(after);
        rows.extend(page.rows);
        if !page.more {
            return rows;
        }
    }
}

pub(super) fn accounts_page_by_page(backend: &dyn Backend) {
    let w = World::new(backend);
    let mut ids: Vec<u128> = (0..23u128).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)).collect();
    ids.push(u128::MAX);
    for (n, id) in ids.iter().enumerate() {
        w.ok([Change::InsertAccount(account(AccountId::from_bits(*id), &format!("user{n}@example.org")))]);
    }
    let status = Status::Deleted { at: w.now(), rev: Rev(1) };
    w.ok([Change::SetStatus { account: AccountId::from_bits(ids[3]), status }]);
    ids.sort_unstable();
    for limit in [1, 5, 24, 25, 100] {
        let rows = walk(limit, |after, n| wait(w.store.list_accounts(None, after, n)).unwrap(), |a: &Account| a.id);
        assert_eq!(rows.iter().map(|a| a.id.bits()).collect::<Vec<_>>(), ids, "by pages of {limit}");
    }
}

pub(super) fn addresses_by_prefix(backend: &dyn Backend) {
    let w = World::new(backend);
    let emails = [
        "ada@example.org",
        "adam@example.org",
        "adb@example.org",
        "ad%@example.org",
        "ad_@example.org",
        "élise@example.org",
        "z\u{10ffff}@example.org",
        "z\u{d7ff}@x.org",
        "z\u{e000}@x.org",
        "AD@example.org",
    ];
    for email in emails {
        w.new_account(email);
    }
    let gone = w.new_account("adz@example.org");
    w.ok([Change::SetStatus { account: gone.id, status: Status::Deleted { at: w.now(), rev: Rev(1) } }]);
    for prefix in
        ["", "a", "ad", "ada", "ada@", "adam@example.org", "ad%", "ad_", "é", "z", "z\u{10ffff}", "z\u{d7ff}", "A", "q"]
    {
        let mut expected: Vec<_> = emails.iter().filter(|e| e.starts_with(prefix)).map(ToString::to_string).collect();
        expected.sort();
        for limit in [1, 3, 100] {
            let page = |after, n| wait(w.store.list_accounts(Some(prefix), after, n)).unwrap();
            let rows = walk(limit, page, |a: &Account| a.id);
            assert!(rows.is_sorted_by_key(|a| a.id));
            let mut found: Vec<String> = rows.into_iter().filter_map(|a| a.email).collect();
            found.sort();
            assert_eq!(found, expected, "{prefix:?}");
        }
    }
}

pub(super) fn clients_page_by_page(backend: &dyn Backend) {
    let w = World::new(backend);
    let mut ids: Vec<ClientId> = (0..5).map(|_| w.new_client(ClientKind::Verifier).id).collect();
    ids.push(ClientId::FIRST_PARTY);
    ids.sort_unstable();
    for limit in [1, 2, 6, 10] {
        let rows = walk(limit, |after, n| wait(w.store.list_clients(after, n)).unwrap(), |c: &Client| c.id);
        assert_eq!(rows.iter().map(|c| c.id).collect::<Vec<_>>(), ids);
    }
}

pub(super) fn records_newest_first(backend: &dyn Backend) {
    let (w, ada, ses, _) = World::peopled(backend);
    let eve = w.new_account("eve@example.org");
    let mut made: Vec<(NewEvent, Option<Rev>)> = Vec::new();
    for n in 0..30u32 {
        let kind = if n % 4 == 0 { EventKind::SessionStarted } else { EventKind::SessionEnded };
        let mut event = w.event(kind);
        if n % 3 != 0 {
            event = event.account(if n % 2 == 0 { ada.id } else { eve.id });
        }
        if n % 5 == 0 {
            let ip = if n % 2 == 0 { "198.51.100.7" } else { "2001:db8::1" };
            event = event.session(ses.id).client(ClientId::FIRST_PARTY).ip(ip.parse().ok()).reason("why — „so“");
        }
        let steps = if n % 2 == 0 { vec![end(Target::All, None)] } else { vec![] };
        let two = w.event(kind).account(ada.id);
        let events = if n % 7 == 0 { vec![event.clone(), two.clone()] } else { vec![event.clone()] };
        let done = w.commit(Changes { steps, events, ..Changes::default() }).unwrap();
        assert_eq!(done.rev.is_some(), n % 2 == 0);
        made.push((event, done.rev));
        if n % 7 == 0 {
            made.push((two, done.rev));
        }
    }
    made.reverse();
    let kinds = [None, Some("session.started"), Some("session.ended"), Some("account.created"), Some("nonsense")];
    for account in [None, Some(ada.id), Some(eve.id), Some(AccountId::from_bits(1))] {
        for kind in kinds {
            for revocations in [false, true] {
                let filter = EventFilter { account, kind: kind.map(Into::into), revocations, ..EventFilter::default() };
                let fits = |(event, rev): &&(NewEvent, Option<Rev>)| {
                    account.is_none_or(|a| event.account == Some(a))
                        && kind.is_none_or(|k| event.kind.as_str() == k)
                        && (!revocations || rev.is_some())
                };
                let expected: Vec<_> = made.iter().filter(fits).cloned().collect();
                for limit in [1, 4, 100] {
                    let page = |after, n| wait(w.store.list_events(&filter, after, n)).unwrap();
                    let rows = walk(limit, page, |row: &EventRow| row.event.id);
                    let found: Vec<_> = rows.into_iter().map(|row| (row.event, row.rev)).collect();
                    assert_eq!(found, expected, "{filter:?} by {limit}");
                }
            }
        }
    }
    // Each other way to ask, alone and together.
    let all = wait(w.store.list_events(&EventFilter::default(), None, 100)).unwrap().rows;
    let rev = made.iter().find_map(|(_, rev)| *rev);
    let one = EventFilter { session: Some(ses.id), ..EventFilter::default() };
    let asked = [
        one.clone(),
        EventFilter { session: Some(SessionId::from_bits(1)), ..EventFilter::default() },
        EventFilter { client: Some(ClientId::FIRST_PARTY), ..EventFilter::default() },
        EventFilter { actor: Some("system".into()), ..EventFilter::default() },
        EventFilter { actor: Some("operator".into()), ..EventFilter::default() },
        EventFilter { from: Some(w.now()), until: Some(w.now().plus(1)), ..EventFilter::default() },
        EventFilter { from: Some(w.now().plus(1)), ..EventFilter::default() },
        EventFilter { until: Some(w.now()), ..EventFilter::default() },
        EventFilter { rev, ..EventFilter::default() },
        EventFilter { rev, account: Some(ada.id), ..EventFilter::default() },
        EventFilter { rev: Some(Rev(u64::MAX)), ..EventFilter::default() },
        EventFilter { revocations: true, kind: Some("session.ended".into()), ..one },
    ];
    let mut sizes = Vec::new();
    for filter in asked {
        let expected: Vec<_> = all.iter().filter(|row| filter.takes(row)).cloned().collect();
        let page = |after, n| wait(w.store.list_events(&filter, after, n)).unwrap();
        assert_eq!(walk(3, page, |row: &EventRow| row.event.id), expected, "{filter:?}");
        sizes.push(expected.len());
    }
    assert!(sizes.iter().filter(|size| **size > 0).count() >= 6 && sizes.contains(&0), "{sizes:?}");
    let nowhere = wait(w.store.list_events(&EventFilter::default(), Some(EventId::from_bits(1)), 10)).unwrap();
    assert!(nowhere.rows.is_empty() && !nowhere.more, "a cursor that names no record");
}
