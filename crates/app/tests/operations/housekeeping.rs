//! Weeks of use against the memory store, with a clock that the test moves; and what a chore does when the database fails.
use crate::application::Application;
use crate::world::{Held, PASSWORD, bearer, settings, sign_in};
use portcullis_app::keys::MasterKey;
use portcullis_app::{Admin, App, AppError};
use portcullis_domain::model::{Account, Status};
use portcullis_domain::refused::OAuthError;
use portcullis_domain::ticket::{self, Ticket, TicketKind};
use portcullis_domain::{Change, Changes, Refused};
use portcullis_store::EventFilter;
use portcullis_store::faulty::{Faulty, Mode};
use portcullis_store::memory::MemoryStore;
use portcullis_wire::{AccountId, Epoch, LogId, Rev, SecretString, Time};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use tokio::task::JoinSet;

const DAY: i64 = 86_400_000;

fn memory(clock: &Arc<AtomicI64>) -> MemoryStore {
    let clock = clock.clone();
    MemoryStore::new(LogId::from_bits(7), Arc::new(move || Time(clock.load(SeqCst))))
}

/// A day passes; F is where it is after a day.
async fn a_day_passes(app: &App, clock: &AtomicI64) {
    clock.fetch_add(DAY, SeqCst);
    let steps = vec![Change::RaiseFloor(app.now().minus(10_000))];
    app.store().commit(Changes { steps, ..Changes::default() }).await.unwrap();
}

#[tokio::test]
async fn no_table_grows_over_weeks() {
    let mut settings = settings();
    settings.rules.idle_ttl = 5 * DAY;
    let policy = &mut settings.policy;
    (policy.ended_retention, policy.event_retention) = (2 * DAY, Some(4 * DAY));
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let mut tasks = JoinSet::new();
    let store = Held::new(memory(&clock));
    let app = App::start(store, settings, MasterKey::generate(), &mut tasks).await.unwrap();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    let eve = app.sign_up("eve@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    // Somebody who comes every day, and is still there in the end.
    let mut faithful = sign_in(&app, &ada, false).await.unwrap();
    let mut most = 0;
    for day in 0..40 {
        for _ in 0..4 {
            let one = sign_in(&app, &ada, false).await.unwrap();
            app.admin_end_session(&Admin::operator(), one.session.id, None).await.unwrap();
            sign_in(&app, &eve, true).await.unwrap();
        }
        faithful = app.refresh(&faithful.refresh_token, bearer()).await.unwrap();
        a_day_passes(&app, &clock).await;
        app.prune_all().await.unwrap();
        let rows = app.store().count_rows().await.unwrap();
        assert_eq!((rows.sessions, rows.accounts), (rows.grants, 2));
        assert!(rows.sessions <= 8 * 8 && rows.events <= 12 * 6 && rows.entries <= 8, "day {day}: {rows:?}");
        most = most.max(rows.sessions);
    }
    assert_eq!(most, 29, "24 of eve, 4 of ada, and the faithful one");
    app.refresh(&faithful.refresh_token, bearer()).await.unwrap();
}

/// What was forgotten is refused as what has ended is, to its own client and to others alike, and is no fault.
#[tokio::test]
async fn a_client_that_comes_back_after_its_session_was_forgotten() {
    let mut settings = settings();
    settings.policy.ended_retention = 0;
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let mut tasks = JoinSet::new();
    let app = App::start(Held::new(memory(&clock)), settings, MasterKey::generate(), &mut tasks).await.unwrap();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    let mine = sign_in(&app, &ada, false).await.unwrap();
    let caller = app.caller(Some(mine.access_token.expose()), None).await.unwrap();
    let theirs = Application::register(&app, "an app").await;
    let others = Application::register(&app, "another app").await;
    let code = theirs.code(&app, &caller, "openid offline_access").await.unwrap();
    let tokens = theirs.redeem(&app, &code).await.unwrap();
    let refresh = tokens.refresh_token.unwrap();
    let all = app.store().list_sessions(ada.id, 9).await.unwrap();
    let theirs_is = all.iter().find(|view| view.session.client == Some(theirs.client.id)).unwrap().session.id;
    app.admin_end_session(&Admin::operator(), theirs_is, None).await.unwrap();
    a_day_passes(&app, &clock).await;
    app.prune_all().await.unwrap();
    assert!(app.store().load_session(theirs_is).await.unwrap().is_none(), "it is forgotten");
    for who in [&theirs, &others] {
        let refused = who.refresh(&app, &refresh).await.unwrap_err();
        let invalid = matches!(&refused, AppError::Refused(Refused::OAuth { error: OAuthError::InvalidGrant, .. }));
        assert!(invalid, "{refused:?}");
        app.revoke_token(&who.itself(), None, &refresh, None).await.unwrap();
        app.revoke_token(&who.itself(), None, &tokens.access_token, None).await.unwrap();
    }
    assert!(app.introspect(tokens.access_token.expose()).await.unwrap().is_none());
    assert!(app.introspect(refresh.expose()).await.unwrap().is_none());
}

/// A session that lives for long, with an application that signs its user in every day.
#[tokio::test]
async fn grants_that_ended_do_not_pile_up_under_a_session_that_goes_on() {
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let mut tasks = JoinSet::new();
    let app = App::start(Held::new(memory(&clock)), settings(), MasterKey::generate(), &mut tasks).await.unwrap();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    let mut mine = sign_in(&app, &ada, false).await.unwrap();
    let theirs = Application::register(&app, "an app").await;
    let caller = app.caller(Some(mine.access_token.expose()), None).await.unwrap();
    let mut last = None;
    for day in 0..20 {
        mine = app.refresh(&mine.refresh_token, bearer()).await.unwrap();
        for _ in 0..3 {
            let tokens = theirs.granted(&app, &caller, "openid").await.unwrap();
            let refresh = tokens.refresh_token.unwrap();
            // Given up by the application itself, all but the last one of each day.
            if let Some(before) = last.replace(refresh) {
                app.revoke_token(&theirs.itself(), None, &before, None).await.unwrap();
            }
        }
        a_day_passes(&app, &clock).await;
        app.prune_all().await.unwrap();
        let rows = app.store().count_rows().await.unwrap();
        assert!(rows.grants <= 2 + 1, "day {day}: {rows:?}");
        assert!(rows.tickets <= 9, "day {day}: {rows:?}");
    }
    assert!(app.counts().grants_pruned.load(SeqCst) >= 50);
    theirs.refresh(&app, &last.unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_chore_that_meets_a_fault_does_the_rest_later() {
    let mut settings = settings();
    settings.policy.ended_retention = 0;
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    for mode in [Mode::Before, Mode::After, Mode::Lost] {
        for fails in 1..=7 {
            let mut tasks = JoinSet::new();
            let store = Arc::new(Faulty::new(memory(&clock)));
            let app = App::start(store.clone(), settings.clone(), MasterKey::generate(), &mut tasks).await.unwrap();
            tasks.abort_all(); // only the test's own calls are counted
            while tasks.join_next().await.is_some() {}
            let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
            let dead = sign_in(&app, &ada, false).await.unwrap();
            let alive = sign_in(&app, &ada, false).await.unwrap();
            app.admin_end_session(&Admin::operator(), dead.session.id, None).await.unwrap();
            a_day_passes(&app, &clock).await;
            store.fail_at(fails, mode);
            let first = app.prune_all().await;
            store.never_fail();
            app.prune_all().await.unwrap();
            let left = app.store().count_rows().await.unwrap();
            assert_eq!(left.sessions, 1, "{mode:?} at {fails}: {first:?}");
            app.refresh(&alive.refresh_token, bearer()).await.unwrap();
        }
    }
}

/// One account that cannot be seen to stops no other, and the records about tombstones are erased.
#[tokio::test]
async fn an_account_that_fails_stops_no_other() {
    let mut settings = settings();
    settings.policy.deletion_grace = DAY / 2;
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let mut tasks = JoinSet::new();
    let store = Held::new(memory(&clock));
    let app = App::start(store.clone(), settings, MasterKey::generate(), &mut tasks).await.unwrap();
    tasks.abort_all(); // only the test's own calls are looked at
    while tasks.join_next().await.is_some() {}
    let mut all = Vec::new();
    for name in ["ada", "eve", "bob"] {
        let row = app
            .sign_up(&format!("{name}@example.org"), SecretString::new(PASSWORD), None, None)
            .await
            .unwrap()
            .unwrap();
        app.admin_block(&Admin::operator(), row.id, "has a name in it", None, None).await.unwrap();
        app.admin_delete(&Admin::operator(), row.id, None).await.unwrap();
        all.push(row.id);
        clock.fetch_add(1, SeqCst);
    }
    a_day_passes(&app, &clock).await;
    store.fail_status.lock().unwrap().insert(all[0]);
    let said = async |account| {
        let filter = EventFilter { account: Some(account), ..EventFilter::default() };
        let rows = app.store().list_events(&filter, None, 100).await.unwrap().rows;
        let gone =
            matches!(app.store().load_account(account).await.unwrap().unwrap().account.status, Status::Deleted { .. });
        (gone, rows.iter().any(|row| row.event.reason.as_deref() == Some("has a name in it")))
    };
    app.prune_all().await.unwrap();
    assert_eq!(
        (said(all[0]).await, said(all[1]).await, said(all[2]).await),
        ((false, true), (true, false), (true, false))
    );
    store.fail_status.lock().unwrap().clear();
    app.prune_all().await.unwrap();
    for account in all {
        assert_eq!(said(account).await, (true, false));
    }
}

/// However many cannot be seen to, and whether they are first in line.
#[tokio::test]
async fn accounts_that_fail_hold_up_nobody_behind_them() {
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let mut tasks = JoinSet::new();
    let store = Held::new(memory(&clock));
    let app = App::start(store.clone(), settings(), MasterKey::generate(), &mut tasks).await.unwrap();
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    let due = |n: u128| {
        let until = app.now().minus(1_000).plus(n as i64);
        let status = Status::Deleting { at: Time(0), until, rev: Rev(1) };
        let email = Some(format!("user{n}@example.org"));
        Account { id: AccountId::from_bits(n), email, status, ..ada.clone() }
    };
    let all: Vec<Account> = (1..=250).map(due).collect();
    let steps = all.iter().cloned().map(Change::InsertAccount).collect();
    app.store().commit(Changes { steps, ..Changes::default() }).await.unwrap();
    store.fail_status.lock().unwrap().extend(all[..240].iter().map(|row| row.id));
    app.prune_all().await.unwrap();
    for (n, row) in all.iter().enumerate() {
        let view = app.store().load_account(row.id).await.unwrap().unwrap();
        assert_eq!(matches!(view.account.status, Status::Deleted { .. }), n >= 240, "{n}");
    }
    // And they are tried again.
    store.fail_status.lock().unwrap().clear();
    app.prune_all().await.unwrap();
    assert!(app.store().list_due_accounts(1000).await.unwrap().is_empty());
}

#[tokio::test]
async fn tickets_go_ten_minutes_after_their_end() {
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let mut tasks = JoinSet::new();
    let app = App::start(Arc::new(memory(&clock)), settings(), MasterKey::generate(), &mut tasks).await.unwrap();
    tasks.abort_all(); // only the test's own calls are counted
    while tasks.join_next().await.is_some() {}
    let ticket = |n: i64| Ticket {
        id: ticket::id(TicketKind::Proof, &n.to_string()),
        kind: TicketKind::Proof,
        account: None,
        session: None,
        client: None,
        born: Rev::ZERO,
        epoch: Epoch(1),
        expires_at: app.now().plus(n),
        body: String::new(),
        version: 1,
        used: None,
    };
    // More than one step takes.
    let steps = (0..5_000).map(|n| Change::InsertTicket(ticket(n))).collect();
    app.store().commit(Changes { steps, ..Changes::default() }).await.unwrap();
    for (passed, left) in [(0, 5_000), (600_000, 5_000), (1, 4_999), (4_000, 999), (4_000, 0)] {
        clock.fetch_add(passed, SeqCst);
        app.prune_all().await.unwrap();
        assert_eq!(app.store().count_rows().await.unwrap().tickets, left);
    }
    assert_eq!(app.counts().tickets_pruned.load(SeqCst), 5_000);
}
