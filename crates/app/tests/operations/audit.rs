//! The chain over audit records in a running server: sealed within a second, whole whatever fails, and broken for whoever tampers.
use crate::world::{PASSWORD, World, memory, settings, sign_in};
use portcullis_app::audit::CheckedPage;
use portcullis_app::keys::MasterKey;
use portcullis_app::{Admin, App, AppError, Settings, Store, real};
use portcullis_domain::audit::{AuditKey, ChainRow, Finding, Place, Start};
use portcullis_domain::model::Account;
use portcullis_domain::{Change, Changes, EventKind, Refused};
use portcullis_store::faulty::{Faulty, Mode};
use portcullis_store::memory::{Memory, MemoryStore};
use portcullis_wire::{Digest, Epoch, LogId, Rev, SecretString, Time};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::Duration;
use tokio::task::JoinSet;

const DAY: i64 = 86_400_000;

/// All pages of a check.
async fn checked(app: &App, known: Option<Place>) -> (Vec<Finding>, u64, u64) {
    let (mut findings, mut records, mut erased, mut from) = (Vec::new(), 0, 0, None);
    loop {
        let page: CheckedPage = app.admin_check_audit(&Admin::operator(), from, known).await.unwrap().unwrap();
        findings.extend(page.checked.findings);
        (records, erased) = (records + page.checked.records, erased + page.checked.erased);
        from = Some(page.checked.to);
        if page.last {
            return (findings, records, erased);
        }
    }
}

async fn head(app: &App) -> Place {
    app.admin_audit(&Admin::operator()).await.unwrap().head.unwrap()
}

async fn start(store: Arc<dyn Store>, master: &MasterKey) -> (App, JoinSet<()>) {
    let mut tasks = JoinSet::new();
    let app = App::start(store, settings(), master.clone(), &mut tasks).await.unwrap();
    (app, tasks)
}

/// Starts on this content, with nothing at work but what is asked for.
async fn over(content: Memory, master: &MasterKey) -> App {
    let (app, mut tasks) = start(Arc::new(MemoryStore::with(content, Arc::new(real::wall))), master).await;
    tasks.abort_all();
    app
}

#[tokio::test]
async fn records_are_sealed_within_a_second() {
    let world = World::start().await;
    let ada = world.ada.clone();
    for _ in 0..3 {
        let tokens = world.sign_in(&ada, false).await.unwrap();
        world.app.admin_end_session(&world.admin, tokens.session.id, None).await.unwrap();
    }
    let begun = real::mono();
    while world.app.store().count_unsealed().await.unwrap().count > 0 {
        assert!(real::mono().since(begun) < 1000, "they wait for longer");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let state = world.app.admin_audit(&world.admin).await.unwrap();
    let all = world.app.store().count_rows().await.unwrap().events;
    assert_eq!((state.head.unwrap().n, state.unsealed.count), (all, 0));
    assert_eq!(checked(&world.app, state.head).await, (vec![], all, 0));
    assert!(world.app.counts().events_sealed.load(SeqCst) >= all);
}

#[tokio::test]
async fn a_fault_at_every_step_leaves_a_whole_chain() {
    for mode in Mode::ALL {
        let (mut failed, master) = (0, MasterKey::generate());
        for n in 1..=8 {
            let store = Arc::new(Faulty::new(memory()));
            let (app, mut tasks) = start(store.clone(), &master).await;
            tasks.abort_all(); // the rest would use up the count
            let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
            for _ in 0..2 {
                sign_in(&app, &ada, false).await.unwrap();
                store.fail_at(n, mode);
                failed += u32::from(app.seal_all().await.is_err());
                store.never_fail();
            }
            app.seal_all().await.unwrap();
            let all = store.count_rows().await.unwrap().events;
            assert_eq!(checked(&app, None).await, (vec![], all, 0), "{mode:?} {n}");
            assert_eq!(head(&app).await.n, all);
        }
        assert!(failed >= 8, "{mode:?}: {failed}");
    }
}

#[tokio::test]
async fn two_nodes_that_both_seal_make_one_chain() {
    let (store, master) = (Arc::new(memory().shared()), MasterKey::generate());
    let (one, mut first) = start(store.clone(), &master).await;
    let (two, mut second) = start(store.clone(), &master).await;
    first.abort_all();
    second.abort_all();
    let ada = one.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    for _ in 0..5 {
        for app in [&one, &two] {
            sign_in(app, &ada, false).await.unwrap();
        }
        let (a, b) = tokio::join!(one.seal_all(), two.seal_all());
        a.and(b).unwrap();
    }
    let all = store.count_rows().await.unwrap().events;
    assert_eq!(checked(&one, Some(head(&two).await)).await, (vec![], all, 0));
}

#[tokio::test]
async fn pruned_and_erased_it_stays_whole() {
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let time = clock.clone();
    let store = Arc::new(MemoryStore::new(LogId::from_bits(7), Arc::new(move || Time(time.load(SeqCst)))));
    let mut settings = settings();
    (settings.policy.event_retention, settings.policy.address_retention) = (Some(10 * DAY), 2 * DAY);
    settings.policy.deletion_grace = 0;
    let mut tasks = JoinSet::new();
    let app = App::start(store, settings, MasterKey::generate(), &mut tasks).await.unwrap();
    tasks.abort_all();
    let ip = "192.0.2.1".parse().ok();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, ip).await.unwrap().unwrap();
    let eve = app.sign_up("eve@example.org", SecretString::new(PASSWORD), None, ip).await.unwrap().unwrap();
    app.admin_block(&Admin::operator(), eve.id, "has a name in it", None, None).await.unwrap();
    let mut known = None;
    let mut erased_once = 0;
    for day in 0..30 {
        sign_in(&app, &ada, false).await.unwrap();
        if day == 1 {
            app.admin_delete(&Admin::operator(), eve.id, None).await.unwrap();
        }
        app.prune_all().await.unwrap();
        let (findings, records, erased) = checked(&app, None).await;
        assert_eq!(findings, [], "day {day}");
        assert!(records <= 30, "day {day}: {records}");
        erased_once = erased_once.max(erased);
        if day == 1 {
            let rows = app.store().list_events(&Default::default(), None, 100).await.unwrap().rows;
            let about = rows.iter().filter(|row| row.event.account == Some(eve.id));
            assert!(
                about.filter(|row| row.event.kind.as_str() == "account.blocked").all(|row| row.event.reason.is_none())
            );
            known = Some(head(&app).await);
        }
        clock.fetch_add(DAY, SeqCst);
    }
    assert!(erased_once >= 3);
    let state = app.admin_audit(&Admin::operator()).await.unwrap();
    assert!(state.start.unwrap().n > known.unwrap().n);
    // What was pruned is not known any more, and that is said.
    let (findings, ..) = checked(&app, known).await;
    assert!(matches!(findings[..], [Finding::Forgotten { .. }]), "{findings:?}");
}

#[tokio::test]
async fn the_key_of_the_chain_goes_with_the_master_key() {
    let (store, old, new) = (Arc::new(memory()), MasterKey::generate(), MasterKey::generate());
    let (app, mut tasks) = start(store.clone(), &old).await;
    tasks.abort_all();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    app.seal_all().await.unwrap();
    let known = head(&app).await;
    app.admin_rotate_master(&Admin::operator(), new.clone()).await.unwrap();
    app.seal_all().await.unwrap();
    assert_eq!(checked(&app, Some(known)).await.0, []);
    let chain = store.read_chain(None, 0).await.unwrap().unwrap().chain;
    assert!(new.open_audit_key(&chain, LogId::from_bits(7)).is_ok());
    assert!(old.open_audit_key(&chain, LogId::from_bits(7)).is_err());
    assert!(new.open_audit_key(&chain, LogId::from_bits(8)).is_err(), "of another log");
    let (again, mut tasks) = start(store, &new).await;
    tasks.abort_all();
    sign_in(&again, &ada, false).await.unwrap();
    again.seal_all().await.unwrap();
    assert_eq!(checked(&again, Some(known)).await.0, []);
    // Founding the log anew makes other keys, and goes on with the same chain.
    again.admin_refound(&Admin::operator(), "a drill").await.unwrap();
    again.seal_all().await.unwrap();
    assert_eq!(checked(&again, Some(known)).await.0, []);
}

#[tokio::test]
async fn an_older_database_and_a_tampered_one_show() {
    let (store, master) = (Arc::new(memory()), MasterKey::generate());
    let (app, mut tasks) = start(store.clone(), &master).await;
    tasks.abort_all();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    for _ in 0..3 {
        sign_in(&app, &ada, false).await.unwrap();
    }
    app.seal_all().await.unwrap();
    let backup = store.content().unwrap();
    for _ in 0..3 {
        sign_in(&app, &ada, false).await.unwrap();
    }
    app.seal_all().await.unwrap();
    let known = head(&app).await;
    assert_eq!(checked(&app, Some(known)).await.0, []);
    // The backup in its place is whole, and shorter than what was known; then it goes on otherwise.
    let restored = over(backup, &master).await;
    assert_eq!(checked(&restored, None).await.0, []);
    let end = head(&restored).await.n;
    assert_eq!(checked(&restored, Some(known)).await.0, [Finding::Truncated { head: end, known: known.n }]);
    for _ in 0..4 {
        sign_in(&restored, &ada, false).await.unwrap();
    }
    restored.seal_all().await.unwrap();
    assert_eq!(checked(&restored, None).await.0, []);
    assert_eq!(checked(&restored, Some(known)).await.0, [Finding::Replaced { known: known.n }]);
    // Changed and removed, by who has the database alone.
    let mut content = store.content().unwrap();
    content.tamper()[2].at = Time(1);
    assert!(matches!(checked(&over(content, &master).await, None).await.0[..], [Finding::Changed { n: 3, .. }]));
    let mut content = store.content().unwrap();
    content.tamper().remove(1);
    assert_eq!(checked(&over(content, &master).await, None).await.0, [Finding::Missing { from: 2, to: 2 }]);
}

/// A database that is older than what the server has seen of it is not sealed on, by none of its nodes.
#[tokio::test]
async fn nothing_is_sealed_over_another_chain() {
    let (store, master) = (Arc::new(memory()), MasterKey::generate());
    let (app, mut tasks) = start(store.clone(), &master).await;
    tasks.abort_all();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    app.seal_all().await.unwrap();
    let (older, start_of_it) = (store.content().unwrap(), head(&app).await);
    for _ in 0..3 {
        sign_in(&app, &ada, false).await.unwrap();
    }
    app.seal_all().await.unwrap();
    let (newer, seen) = (store.content().unwrap(), head(&app).await);
    let misfits = || app.counts().audit_misfits.load(SeqCst);
    // Shorter.
    store.tamper(|memory| *memory = older.clone()).unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    assert!(app.seal_all().await.is_err());
    assert_eq!((head(&app).await, misfits()), (start_of_it, 1));
    assert_eq!(checked(&app, None).await.0, [Finding::Truncated { head: start_of_it.n, known: seen.n }]);
    // Sealed elsewhere by somebody with the key, and longer than what was seen.
    let (other, mut tasks) = start(store.clone(), &master).await;
    tasks.abort_all();
    for _ in 0..5 {
        sign_in(&other, &ada, false).await.unwrap();
    }
    other.seal_all().await.unwrap();
    assert!(head(&app).await.n > seen.n);
    sign_in(&app, &ada, false).await.unwrap();
    assert!(app.seal_all().await.is_err());
    assert_eq!(misfits(), 2);
    assert_eq!(checked(&app, None).await.0, [Finding::Replaced { known: seen.n }]);
    // The right one again.
    store.tamper(|memory| *memory = newer).unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    app.seal_all().await.unwrap();
    assert_eq!((checked(&app, Some(seen)).await.0, misfits()), (vec![], 2));
}

/// Whoever sets times back gets no start under the key for it; and the rest of what is old goes on going.
#[tokio::test]
async fn backdated_records_are_not_pruned() {
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let time = clock.clone();
    let store = Arc::new(MemoryStore::new(LogId::from_bits(7), Arc::new(move || Time(time.load(SeqCst)))));
    let mut settings = settings();
    settings.policy.event_retention = Some(10 * DAY);
    settings.policy.deletion_grace = DAY;
    let mut tasks = JoinSet::new();
    let app = App::start(store.clone(), settings, MasterKey::generate(), &mut tasks).await.unwrap();
    tasks.abort_all();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    let eve = app.sign_up("eve@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    app.admin_delete(&Admin::operator(), eve.id, None).await.unwrap();
    app.seal_all().await.unwrap();
    let before = head(&app).await;
    store.tamper(|memory| memory.tamper()[..2].iter_mut().for_each(|row| row.at = Time(0))).unwrap();
    clock.fetch_add(2 * DAY, SeqCst);
    assert!(app.prune_all().await.is_err());
    assert_eq!(app.counts().audit_misfits.load(SeqCst), 1);
    assert_eq!(app.counts().accounts_due.load(SeqCst), 1, "the deletion that is due");
    let (findings, ..) = checked(&app, Some(before)).await;
    assert!(matches!(findings[..], [Finding::Changed { n: 1, .. }, Finding::Changed { n: 2, .. }]), "{findings:?}");
}

/// A node with a file for where it saw the chain end.
async fn with_file(content: Memory, master: &MasterKey, file: &Path) -> (App, Arc<MemoryStore>) {
    let settings = Settings { audit_head_file: Some(file.into()), ..settings() };
    let mut tasks = JoinSet::new();
    let store = Arc::new(MemoryStore::with(content, Arc::new(real::wall)));
    let app = App::start(store.clone(), settings, master.clone(), &mut tasks).await.unwrap();
    tasks.abort_all();
    (app, store)
}

fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("portcullis-{name}-{}.json", std::process::id()))
}

/// A node that has ended: an account, an older content of its database, where the chain ended then, and where it has seen it end.
async fn saw_more(master: &MasterKey, path: &Path) -> (Account, Memory, Place, Place) {
    let (app, store) = with_file(Memory::new(LogId::from_bits(7), real::wall()), master, path).await;
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    app.seal_all().await.unwrap();
    let (older, cut_at) = (store.content().unwrap(), head(&app).await);
    for _ in 0..3 {
        sign_in(&app, &ada, false).await.unwrap();
    }
    app.seal_all().await.unwrap();
    let seen = head(&app).await;
    app.finish().await;
    (ada, older, cut_at, seen)
}

/// Over a node's end, too: what it wrote down it holds the chain against when it is started anew. Who has looked begins another one.
#[tokio::test]
async fn a_node_that_was_started_anew_knows_where_the_chain_ended() {
    let (path, master) = (file("audit-head"), MasterKey::generate());
    let (ada, older, cut_at, seen) = saw_more(&master, &path).await;

    // The end cut off, and the chain's row set back, while nobody looked.
    let (app, store) = with_file(older, &master, &path).await;
    let truncated = Finding::Truncated { head: cut_at.n, known: seen.n };
    assert_eq!(checked(&app, None).await.0, [truncated]);
    sign_in(&app, &ada, false).await.unwrap();
    assert!(app.seal_all().await.is_err());
    assert_eq!(head(&app).await, cut_at);

    // Not for who has a token, and not without words.
    let tokens = sign_in(&app, &ada, false).await.unwrap();
    let caller = app.caller(Some(tokens.access_token.expose()), None).await.unwrap();
    let (operator, caller) = (Admin::operator(), Admin::by_token(&caller));
    let refused = app.admin_begin_trail_anew(&caller, "looked").await;
    assert!(matches!(refused, Err(AppError::Refused(Refused::Forbidden))), "{refused:?}");
    assert!(matches!(
        app.admin_begin_trail_anew(&operator, " ").await,
        Err(AppError::Refused(Refused::InvalidValue { .. }))
    ));
    let start = app.admin_begin_trail_anew(&operator, "a backup was put back").await.unwrap();
    assert!(start.n > seen.n, "{start}");
    app.seal_all().await.unwrap();
    let whole = head(&app).await;
    assert_eq!(checked(&app, Some(whole)).await.0, []);
    assert!(matches!(checked(&app, Some(seen)).await.0[..], [Finding::Forgotten { .. }]));
    // It is on record, in the new chain, and what was there before is there still.
    let rows = app.store().list_events(&Default::default(), None, 100).await.unwrap().rows;
    let begun = rows.iter().find(|row| row.event.kind == EventKind::AuditBegunAnew).unwrap();
    assert_eq!(begun.event.reason.as_deref(), Some(&*format!("after {}: a backup was put back", cut_at.n)));
    assert!(begun.seal.unwrap().place.n > start.n);
    assert!(rows.iter().any(|row| row.seal.is_some_and(|seal| seal.place.n == 1)));
    app.finish().await;
    let (app, _) = with_file(store.content().unwrap(), &master, &path).await;
    assert_eq!(checked(&app, Some(whole)).await.0, []);

    // A file of another log says nothing of this one; one that does not read stops the start.
    let (other, _) = with_file(Memory::new(LogId::from_bits(8), real::wall()), &master, &path).await;
    other.sign_up("eve@example.org", SecretString::new(PASSWORD), None, None).await.unwrap();
    other.seal_all().await.unwrap();
    std::fs::write(&path, "{").unwrap();
    let settings = Settings { audit_head_file: Some(path.clone()), ..settings() };
    let wrong = App::start(Arc::new(memory()), settings, master, &mut JoinSet::new()).await;
    assert!(wrong.unwrap_err().to_string().contains("is damaged"));
    std::fs::remove_file(path).unwrap();
}

/// Whoever has the database alone cannot make a node forget what it saw: neither by a greater epoch nor by words that nobody with the
/// key has said. Who founds the log anew, with the master key, lets them go on; each time that is said once.
#[tokio::test]
async fn no_raised_epoch_makes_a_node_forget_what_it_saw() {
    let (path, master) = (file("epoch"), MasterKey::generate());
    let (ada, older, cut_at, seen) = saw_more(&master, &path).await;
    let truncated = Finding::Truncated { head: cut_at.n, known: seen.n };

    let put_back = MemoryStore::with(older.clone(), Arc::new(real::wall));
    let raised = Change::Refound { epoch: Epoch(9), base: Rev(1 << 40) };
    put_back.commit(Changes { steps: vec![raised], ..Changes::default() }).await.unwrap();
    let forge = |memory: &mut Memory| {
        let chain = memory.read_chain(None, 0).unwrap().chain;
        let attested = AuditKey::new(&mut real::RealChance).attest(LogId::from_bits(7), 1 << 50, chain.head);
        memory.tamper_chain(Some(ChainRow { attested: Some(attested), ..chain }));
    };
    put_back.tamper(forge).unwrap();
    // One that was started anew, and one that saw it happen.
    let (app, store) = with_file(put_back.content().unwrap(), &master, &path).await;
    assert_eq!(checked(&app, None).await.0, [truncated]);
    let (running, other) = with_file(older.clone(), &master, &file("epoch-2")).await;
    assert_eq!(checked(&running, None).await.0, []);
    for _ in 0..3 {
        sign_in(&running, &ada, false).await.unwrap();
    }
    running.seal_all().await.unwrap();
    let theirs = head(&running).await;
    other.tamper(|memory| *memory = put_back.content().unwrap()).unwrap();
    assert_eq!(checked(&running, None).await.0, [Finding::Truncated { head: cut_at.n, known: theirs.n }]);
    sign_in(&app, &ada, false).await.unwrap();
    assert!(app.seal_all().await.is_err());

    app.admin_refound(&Admin::operator(), "an older database was put back").await.unwrap();
    app.seal_all().await.unwrap();
    let goes_on = head(&app).await;
    assert_eq!((checked(&app, Some(goes_on)).await.0, checked(&app, Some(cut_at)).await.0), (vec![], vec![]));
    other.tamper(|memory| *memory = store.content().unwrap()).unwrap();
    assert_eq!(checked(&running, None).await.0, [], "the others hear of it by the database");
    // It was said of that chain, then: the same database put back once more is one that somebody put back.
    let said = store.content().unwrap();
    for _ in 0..2 {
        sign_in(&app, &ada, false).await.unwrap();
    }
    app.seal_all().await.unwrap();
    let later = head(&app).await;
    app.finish().await;
    let (app, _) = with_file(said, &master, &path).await;
    assert_eq!(checked(&app, None).await.0, [Finding::Truncated { head: goes_on.n, known: later.n }]);
    [path, file("epoch-2")].into_iter().for_each(|path| drop(std::fs::remove_file(path)));
}

/// A failover has lost the last seals, and nothing else: who has looked lets the chain go on, and it stays the one that it is.
#[tokio::test]
async fn a_chain_that_lost_its_last_seals_goes_on() {
    let (store, master) = (Arc::new(memory().shared()), MasterKey::generate());
    let (app, mut tasks) = start(store.clone(), &master).await;
    tasks.abort_all();
    let (other, mut tasks) = start(store.clone(), &master).await;
    tasks.abort_all();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    app.seal_all().await.unwrap();
    let before = head(&app).await;
    sign_in(&app, &ada, false).await.unwrap();
    let lost = store.content().unwrap();
    app.seal_all().await.unwrap();
    let seen = head(&app).await;
    assert_eq!(checked(&other, None).await.0, []);
    store.tamper(|memory| *memory = lost).unwrap();
    let truncated = Finding::Truncated { head: before.n, known: seen.n };
    assert_eq!((checked(&app, None).await.0, checked(&other, None).await.0), (vec![truncated], vec![truncated]));
    assert!(app.seal_all().await.is_err());

    let tokens = sign_in(&app, &ada, false).await.unwrap();
    let caller = app.caller(Some(tokens.access_token.expose()), None).await.unwrap();
    let refused = app.admin_go_on_with_trail(&Admin::by_token(&caller), "looked").await;
    assert!(matches!(refused, Err(AppError::Refused(Refused::Forbidden))), "{refused:?}");
    assert!(app.admin_go_on_with_trail(&Admin::operator(), " ").await.is_err());
    assert_eq!(app.admin_go_on_with_trail(&Admin::operator(), "a failover").await.unwrap(), before);
    app.seal_all().await.unwrap();
    other.seal_all().await.unwrap();
    assert_eq!((checked(&app, Some(before)).await.0, checked(&other, None).await.0), (vec![], vec![]));
    let rows = app.store().list_events(&Default::default(), None, 100).await.unwrap().rows;
    let went_on = rows.iter().find(|row| row.event.kind == EventKind::AuditWentOn).unwrap();
    assert_eq!(went_on.event.reason.as_deref(), Some(&*format!("from {}: a failover", before.n)));
    assert!(rows.iter().all(|row| row.seal.is_some()), "what had lost its seal has one");
    // A chain that is broken where it ends is not mended by it.
    store.tamper(|memory| memory.tamper().last_mut().unwrap().at = Time(1)).unwrap();
    let refused = app.admin_go_on_with_trail(&Admin::operator(), "a failover").await;
    assert!(matches!(refused, Err(AppError::Refused(Refused::Conflict { .. }))), "{refused:?}");
}

/// Whatever was made of the chain's row, another one can begin, and what was sealed before is there still.
#[tokio::test]
async fn a_chain_begins_anew_whatever_was_made_of_its_row() {
    type How = fn(ChainRow) -> Option<ChainRow>;
    let far = |chain: ChainRow| Some(ChainRow { head: Place { n: i64::MAX as u64, link: chain.head.link }, ..chain });
    let start_gone = |chain: ChainRow| Some(ChainRow { start: Start { mac: Digest([1; 32]), ..chain.start }, ..chain });
    let jumped = |chain: ChainRow| {
        let start = AuditKey::new(&mut real::RealChance).start_anew(LogId::from_bits(7), 500, 500).unwrap();
        Some(ChainRow { start, head: start.place, ..chain })
    };
    let cases: [(&str, How, &str); 4] = [
        ("gone", |_| None, "truncated"),
        ("an end of its own", far, "head"),
        ("a start of its own", start_gone, "start"),
        ("a start beyond all that was seen", jumped, "start"),
    ];
    for (what, how, finding) in cases {
        let (store, master) = (Arc::new(memory()), MasterKey::generate());
        let (app, mut tasks) = start(store.clone(), &master).await;
        tasks.abort_all();
        let nothing = app.admin_begin_trail_anew(&Admin::operator(), "looked").await;
        assert!(matches!(nothing, Err(AppError::Refused(Refused::NotFound))), "{nothing:?}");
        let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
        sign_in(&app, &ada, false).await.unwrap();
        app.seal_all().await.unwrap();
        let (seen, all) = (head(&app).await, store.count_rows().await.unwrap().events);
        store.tamper(|memory| memory.tamper_chain(how(memory.read_chain(None, 0).unwrap().chain))).unwrap();
        sign_in(&app, &ada, false).await.unwrap();
        let error = app.seal_all().await.unwrap_err().to_string();
        let said = match finding {
            "truncated" => "the chain ends at 0",
            "head" => "names another end",
            _ => "starting point was not written by this server",
        };
        assert!(error.contains(said), "{what}: {error}");
        let begins = app.admin_begin_trail_anew(&Admin::operator(), "looked").await.unwrap();
        assert!(begins.n > seen.n + 999_999 && begins.n < u64::MAX / 2, "{what}: {begins}");
        app.seal_all().await.unwrap();
        assert_eq!(checked(&app, Some(head(&app).await)).await.0, [], "{what}");
        assert!(matches!(checked(&app, Some(seen)).await.0[..], [Finding::Forgotten { .. }]), "{what}");
        assert_eq!(store.last_place(seen.n).await.unwrap(), Some(all), "{what}: what was sealed before stays");
        // And once more, from there.
        app.admin_begin_trail_anew(&Admin::operator(), "again").await.unwrap();
        app.seal_all().await.unwrap();
        assert_eq!(checked(&app, None).await.0, [], "{what}");
        // A record between what is left and the beginning is nobody's.
        let at = head(&app).await.n - 2;
        store.tamper(|memory| memory.tamper()[0].seal.as_mut().unwrap().place.n = at).unwrap();
        assert!(matches!(checked(&app, None).await.0[..], [Finding::Inserted { n, .. }] if n == at), "{what}");
    }
}

/// A chain whose key opens nowhere any more: another one begins, under another key. What is old goes by its time, and new records by theirs.
#[tokio::test]
async fn what_an_earlier_chain_has_left_goes_by_its_time() {
    let clock = Arc::new(AtomicI64::new(1_800_000_000_000));
    let time = clock.clone();
    let store = Arc::new(MemoryStore::new(LogId::from_bits(7), Arc::new(move || Time(time.load(SeqCst)))));
    let settings = || {
        let mut settings = settings();
        settings.policy.event_retention = Some(10 * DAY);
        settings
    };
    let (mut tasks, first, second) = (JoinSet::new(), MasterKey::generate(), MasterKey::generate());
    let app = App::start(store.clone(), settings(), first, &mut tasks).await.unwrap();
    tasks.abort_all();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    app.seal_all().await.unwrap();
    let old = app.store().count_rows().await.unwrap().events;
    // As a node of an earlier release leaves it when it replaces the master key: the other keys open, and this one does not.
    let row = store.read_chain(None, 0).await.unwrap().unwrap().chain;
    let foreign = second.seal_audit_key(&AuditKey::new(&mut real::RealChance), LogId::from_bits(7)).unwrap();
    let steps = vec![Change::SetChainKey { before: row.key, sealed: foreign }];
    store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
    sign_in(&app, &ada, false).await.unwrap();
    assert!(app.seal_all().await.is_err());
    clock.fetch_add(DAY, SeqCst);
    app.admin_begin_trail_anew(&Admin::operator(), "its key is lost").await.unwrap();
    app.seal_all().await.unwrap();
    let known = head(&app).await;
    assert_eq!(checked(&app, Some(known)).await.0, []);
    let left = async || app.store().count_rows().await.unwrap().events;
    assert_eq!(left().await, old + 2);
    clock.fetch_add(9 * DAY + 1, SeqCst);
    app.prune_all().await.unwrap();
    assert_eq!(left().await, 1, "all but the one that says that it began");
    assert_eq!(checked(&app, Some(known)).await.0, []);
    clock.fetch_add(DAY, SeqCst);
    app.prune_all().await.unwrap();
    assert_eq!(left().await, 0);
    assert_eq!(checked(&app, Some(known)).await.0, []);
}
