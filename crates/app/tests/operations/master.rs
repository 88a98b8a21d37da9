//! The master key is replaced: at every step a start finds a key that opens, and the old one opens nothing afterwards.
use crate::world::{PASSWORD, memory, settings, sign_in};
use portcullis_app::keys::MasterKey;
use portcullis_app::rotation::MasterHome;
use portcullis_app::webhooks::WebhookPatch;
use portcullis_app::{Admin, App, AppError};
use portcullis_domain::keys::Wanted;
use portcullis_domain::webhook::Webhook;
use portcullis_store::Store;
use portcullis_store::faulty::{Faulty, Mode};
use portcullis_wire::{Code, LogId, SecretString};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;

/// Two places in memory; fails when told to.
#[derive(Debug, Default)]
struct Home {
    /// The key in its place, and the next one.
    places: Mutex<(Option<MasterKey>, Option<MasterKey>)>,
    prepare_fails: bool,
    settle_fails: bool,
}

impl MasterHome for Home {
    fn prepare(&self, next: &MasterKey) -> std::io::Result<()> {
        if self.prepare_fails {
            return Err(std::io::Error::other("the disk is full"));
        }
        self.places.lock().unwrap().1 = Some(next.clone());
        Ok(())
    }
    fn settle(&self) -> std::io::Result<()> {
        if self.settle_fails {
            return Err(std::io::Error::other("the disk is full"));
        }
        let mut places = self.places.lock().unwrap();
        places.0 = places.1.take();
        Ok(())
    }
}

type Db = Arc<Faulty<portcullis_store::memory::MemoryStore>>;

async fn start(store: &Db, master: &MasterKey, home: Option<Arc<Home>>) -> Result<(App, JoinSet<()>), AppError> {
    let mut tasks = JoinSet::new();
    let home = home.map(|home| home as Arc<dyn MasterHome>);
    let app = App::start_with(store.clone(), settings(), master.clone(), home, &mut tasks).await?;
    Ok((app, tasks))
}

async fn opens(store: &Db, master: &MasterKey) -> bool {
    master.opens(&store.list_keys().await.unwrap(), LogId::from_bits(7)).unwrap()
}

#[tokio::test]
async fn all_keys_are_sealed_anew_and_the_server_goes_on() {
    let (store, old, new) = (Arc::new(Faulty::new(memory())), MasterKey::generate(), MasterKey::generate());
    let home = Arc::new(Home { places: Mutex::new((Some(old.clone()), None)), ..Home::default() });
    let (app, _tasks) = start(&store, &old, Some(home.clone())).await.unwrap();
    let ada = app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
    let tokens = sign_in(&app, &ada, false).await.unwrap();
    let admin = Admin::operator();
    assert_eq!(app.admin_rotate_master(&admin, new.clone()).await.unwrap(), (3, true));
    assert!(opens(&store, &new).await && !opens(&store, &old).await);
    let places = home.places.lock().unwrap().clone();
    assert!(places.0.unwrap().is(&new) && places.1.is_none());
    // It goes on, makes keys under the new one, and repeats without harm.
    assert!(app.refresh(&tokens.refresh_token, crate::world::bearer()).await.is_ok());
    app.admin_rotate_keys(&admin, Wanted { signing: false, mac: true }, None).await.unwrap();
    app.admin_revoke_key(&admin, app.keys().signs_with(), "leaked", None).await.unwrap();
    assert!(sign_in(&app, &ada, false).await.is_ok());
    assert_eq!(app.admin_rotate_master(&admin, new.clone()).await.unwrap(), (0, true));
    assert!(opens(&store, &new).await);
    // And starts with the new one only; a wrong one writes nothing.
    let before = format!("{:?}", store.list_keys().await.unwrap());
    let refused = start(&store, &old, None).await.err().unwrap();
    assert!(refused.to_string().contains("master key"), "{refused}");
    assert_eq!(format!("{:?}", store.list_keys().await.unwrap()), before);
    let (again, _tasks) = start(&store, &new, None).await.unwrap();
    assert!(sign_in(&again, &ada, false).await.is_ok());
    let events = app.store().list_events(&Default::default(), None, 100).await.unwrap().rows;
    assert_eq!(events.iter().filter(|row| row.event.kind.as_str() == "master_key.rotated").count(), 1);
}

/// The secrets of webhooks are kept under the same key, those that sign for a while longer too.
#[tokio::test]
async fn the_secrets_of_webhooks_are_sealed_anew() {
    let (store, old, new) = (Arc::new(Faulty::new(memory())), MasterKey::generate(), MasterKey::generate());
    let (app, _tasks) = start(&store, &old, None).await.unwrap();
    let (admin, log) = (Admin::operator(), LogId::from_bits(7));
    let (url, events) = (Some("https://hooks.example.org/".to_owned()), Some(vec!["*".to_owned()]));
    let what = WebhookPatch { url, events, ..WebhookPatch::default() };
    let made = app.admin_create_webhook(&admin, what, None).await.unwrap();
    let id = made.told.webhook.id;
    app.admin_rotate_webhook(&admin, id, 60_000).await.unwrap();
    let secrets = |row: &Webhook| vec![row.secret.clone(), row.old_secret.clone().unwrap().0];
    let opened = |row: &Webhook, key: &MasterKey| -> Vec<Option<Vec<u8>>> {
        let open = |sealed| key.open_webhook(sealed, id, log).ok().map(|secret| secret.expose().to_vec());
        secrets(row).iter().map(open).collect()
    };
    let before = store.load_webhook(id).await.unwrap().unwrap();
    app.admin_rotate_master(&admin, new.clone()).await.unwrap();
    let after = store.load_webhook(id).await.unwrap().unwrap();
    assert!(opened(&before, &old).iter().all(Option::is_some));
    assert_eq!(opened(&after, &new), opened(&before, &old));
    assert!(opened(&after, &old).iter().all(Option::is_none));
}

#[tokio::test]
async fn who_comes_by_token_brings_no_master_key() {
    let (store, old) = (Arc::new(Faulty::new(memory())), MasterKey::generate());
    let (app, _tasks) = start(&store, &old, None).await.unwrap();
    assert!(app.bootstrap_admin("admin@example.org", SecretString::new(PASSWORD)).await.unwrap());
    let admin = app.store().list_accounts(None, None, 1).await.unwrap().rows.remove(0);
    let tokens = sign_in(&app, &admin, false).await.unwrap();
    let caller = app.admin_caller(Some(tokens.access_token.expose()), None).await.unwrap();
    let refused = app.admin_rotate_master(&Admin::by_token(&caller), MasterKey::generate()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Forbidden);
    assert!(opens(&store, &old).await);
}

/// A fault at the n-th operation, for every n, before and after the write; and files that cannot be written. Whatever it is, one
/// of the two keys opens everything, it is in one of the two places, and the server works.
#[tokio::test]
async fn at_every_step() {
    for (prepare_fails, settle_fails) in [(false, false), (true, false), (false, true)] {
        for mode in [Mode::Before, Mode::After] {
            for n in 1..=8u64 {
                let (store, old, new) = (Arc::new(Faulty::new(memory())), MasterKey::generate(), MasterKey::generate());
                let places = Mutex::new((Some(old.clone()), None));
                let home = Arc::new(Home { places, prepare_fails, settle_fails });
                let (app, mut tasks) = start(&store, &old, Some(home.clone())).await.unwrap();
                tasks.abort_all();
                let ada =
                    app.sign_up("ada@example.org", SecretString::new(PASSWORD), None, None).await.unwrap().unwrap();
                store.fail_at(n, mode);
                let done = app.admin_rotate_master(&Admin::operator(), new.clone()).await;
                store.never_fail();
                let what = format!("{prepare_fails} {settle_fails} {mode:?} {n}: {done:?}");
                let (with_old, with_new) = (opens(&store, &old).await, opens(&store, &new).await);
                assert!(with_old != with_new, "{what}");
                assert!(done.is_err() || with_new, "{what}");
                assert!(!prepare_fails || with_old, "{what}");
                // A crash here: a start tries both places.
                let (place, next) = home.places.lock().unwrap().clone();
                let candidates = [place, next].into_iter().flatten().collect::<Vec<_>>();
                let found = candidates.iter().find(|key| with_new == key.is(&new) && with_old == key.is(&old));
                let (after, _tasks) = start(&store, found.expect(&what), None).await.unwrap();
                assert!(sign_in(&after, &ada, false).await.is_ok(), "{what}");
                // No crash: the server goes on, whatever it was told, and the call can be repeated.
                assert!(sign_in(&app, &ada, false).await.is_ok(), "{what}");
                if !prepare_fails {
                    assert!(app.admin_rotate_master(&Admin::operator(), new.clone()).await.is_ok(), "{what}");
                    assert!(opens(&store, &new).await, "{what}");
                    app.admin_rotate_keys(&Admin::operator(), Wanted { signing: false, mac: true }, None)
                        .await
                        .unwrap();
                    assert!(opens(&store, &new).await, "{what}");
                }
            }
        }
    }
}
