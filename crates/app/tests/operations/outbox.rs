//! Messages on their way out: what those who take nothing, and what goes wrong here, can take from the others.
use crate::world::{Held, World, memory, settings};
use portcullis_app::keys::MasterKey;
use portcullis_app::{App, real};
use portcullis_domain::Cut;
use portcullis_domain::changes::{Change, Changes};
use portcullis_domain::client::Profile;
use portcullis_domain::model::{Client, ClientKind};
use portcullis_domain::outbox::{self, Message, MessageState};
use portcullis_store::Store;
use portcullis_wire::{AccountId, ClientId, MessageId, SessionId, Time};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// More than one read looks at.
const DEAD: u128 = 700;

fn message(client: ClientId, at: Time) -> Message {
    outbox::logout(client, AccountId::from_bits(2), SessionId::from_bits(1), at, &mut real::RealChance)
}

fn application(id: ClientId, receiver: String, stranger: bool) -> Client {
    let registration = stranger.then(|| "of itself".to_owned());
    Client {
        id,
        name: "An application".into(),
        kind: ClientKind::Public,
        secret: None,
        old_secret: None,
        profile: Profile { backchannel_logout_uri: Some(receiver), registration, ..Profile::default() },
        version: 1,
        disabled: false,
        created_at: Time(0),
        cut: Cut::default(),
    }
}

/// Answers what comes to `/alive`, and nothing else, ever.
async fn receiver() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 16];
                stream.read_exact(&mut head).await.unwrap();
                if head.starts_with(b"POST /alive ") {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
                let _ = stream.read_to_end(&mut vec![]).await;
            });
        }
    });
    base
}

async fn put(store: &impl Store, steps: Vec<Change>) {
    store.commit(Changes { steps, ..Changes::default() }).await.unwrap();
}

async fn state(store: &impl Store, id: MessageId) -> MessageState {
    store.load_message(id).await.unwrap().unwrap().state
}

/// Waits until a message is settled.
async fn settled(store: &impl Store, id: MessageId, within_ms: i64) {
    let begun = real::mono();
    while state(store, id).await == MessageState::Waiting {
        assert!(real::mono().since(begun) < within_ms, "it waits for {within_ms} ms");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_registered_themselves_and_answer_nothing_hold_up_nobody() {
    let (store, base) = (memory(), receiver().await);
    let now = store.now();
    let dead = |n| application(ClientId::from_bits(n * 7 + 1), format!("{base}/dead"), true);
    let mut steps: Vec<Change> = (0..DEAD).map(|n| Change::InsertClient(dead(n))).collect();
    let theirs = |n: u128| message(ClientId::from_bits(n * 7 + 1), now.minus(60_000));
    steps.extend((0..DEAD).map(|n| Change::InsertMessage(theirs(n))));
    let healthy = ClientId::from_bits(DEAD * 7 / 2);
    steps.push(Change::InsertClient(application(healthy, format!("{base}/alive"), false)));
    put(&store, steps).await;
    let first = message(healthy, now);
    put(&store, vec![Change::InsertMessage(first.clone())]).await;
    let (held, mut tasks) = (Held::new(store), JoinSet::new());
    let app = App::start(held.clone(), settings(), MasterKey::generate(), &mut tasks).await.unwrap();
    // Never called before, and its message is the youngest.
    settled(&held.store, first.id, 30_000).await;
    for _ in 0..5 {
        let next = message(healthy, app.now());
        put(&held.store, vec![Change::InsertMessage(next.clone())]).await;
        settled(&held.store, next.id, 15_000).await;
        assert_eq!(state(&held.store, next.id).await, MessageState::Done);
    }
    let waiting = held.store.count_messages().await.unwrap().waiting;
    assert!(waiting > DEAD as u64 - 200, "{waiting}");
}

/// Whatever goes wrong while a message is sent, its place is free afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_panics_gives_its_place_back() {
    let world = World::start().await;
    let store = &world.held.store;
    world.held.panics_when_settled.store(true, Ordering::SeqCst);
    // Nobody is there to be told, so each of them is to be given up; which goes wrong.
    let lost: Vec<Message> = (1..=40).map(|n| message(ClientId::from_bits(n), store.now())).collect();
    put(store, lost.iter().cloned().map(Change::InsertMessage).collect()).await;
    let begun = real::mono();
    loop {
        let mut tried = 0;
        for one in &lost {
            tried += store.load_message(one.id).await.unwrap().unwrap().tries;
        }
        if tried >= 40 {
            break;
        }
        assert!(real::mono().since(begun) < 60_000, "{tried} of them were tried: places are lost");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.held.panics_when_settled.store(false, Ordering::SeqCst);
    let after = message(ClientId::from_bits(99), store.now());
    put(store, vec![Change::InsertMessage(after.clone())]).await;
    settled(store, after.id, 30_000).await;
    assert_eq!(state(store, after.id).await, MessageState::Dead);
}
