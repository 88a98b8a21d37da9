//! Acts of an administrator, each once, in a known order: what was answered, and what the database says of them after a kill.
use crate::kept::{Answer, Kept, Session};
use crate::support::PATIENCE;
use portcullis_domain::model::Status;
use portcullis_store::{EventFilter, EventRow, Store};
use portcullis_store_sqlite::SqliteStore;
use portcullis_tower::wire::{AccountId, Chain, ClientId, Rev};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// What is done to an account, in this order, each once, with the kinds of record that tell of it.
const OF_ACCOUNT: [(Deed, &[&str]); 6] = [
    (Deed::Create, &["account.created"]),
    (Deed::Roles, &["account.changed"]),
    (Deed::Block, &["account.blocked"]),
    (Deed::Unblock, &["account.unblocked"]),
    (Deed::Filter, &["sessions.revoked"]),
    (Deed::Delete, &["account.deleted", "account.deleting"]),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Create,
    Roles,
    Block,
    Unblock,
    Filter,
    Delete,
}

/// One that the acts are about: an account with `OF_ACCOUNT`, or a client that is switched off and on.
#[derive(Debug)]
struct Subject {
    name: String,
    /// Known once its making was answered.
    id: Option<String>,
    is_client: bool,
    /// So many acts were answered.
    done: usize,
    /// The next one was asked for, and not answered.
    unsure: bool,
}

/// All of them, with who acts.
#[derive(Debug)]
pub struct Deeds {
    subjects: Vec<Subject>,
    token: String,
    /// Acts that had to be asked for again, and of them those that were done already.
    pub repeated: usize,
    pub found: usize,
}

/// A call, ready to be made and made again.
struct Call {
    method: &'static str,
    path: String,
    body: Option<Value>,
    key: String,
}

impl Subject {
    fn account(n: usize) -> Self {
        Self { name: format!("subject.{n}@example.org"), id: None, is_client: false, done: 0, unsure: false }
    }
    fn client() -> Self {
        Self { name: "switched".into(), id: None, is_client: true, done: 0, unsure: false }
    }
    fn is_finished(&self) -> bool {
        !self.is_client && self.done == OF_ACCOUNT.len()
    }

    /// The next act.
    fn call(&self) -> Call {
        let id = self.id.as_deref().unwrap_or_default();
        let account = format!("/v1/admin/accounts/{id}");
        let (method, path, body) = match (self.is_client, self.done) {
            (true, 0) => ("POST", "/v1/admin/clients".into(), Some(json!({ "name": self.name, "kind": "public" }))),
            (true, n) => ("PATCH", format!("/v1/admin/clients/{id}"), Some(json!({ "disabled": n % 2 == 1 }))),
            (false, n) => match OF_ACCOUNT[n].0 {
                Deed::Create => ("POST", "/v1/admin/accounts".into(), Some(json!({ "email": self.name }))),
                Deed::Roles => ("PATCH", account, Some(json!({ "roles": ["editor"] }))),
                Deed::Block => ("POST", account + "/block", Some(json!({ "reason": "a test" }))),
                Deed::Unblock => ("POST", account + "/unblock", None),
                Deed::Filter => {
                    let body = json!({ "filter": { "account_ids": [id] }, "reason": self.name });
                    ("POST", "/v1/admin/revocations".into(), Some(body))
                }
                Deed::Delete => ("DELETE", account, None),
            },
        };
        Call { method, path, body, key: format!("{}/{}", self.name, self.done) }
    }

    /// Makes the next act known as done.
    fn note(&mut self, answer: &Answer) {
        assert!((200..300).contains(&answer.status), "{} {}: {}", self.name, self.done, answer.body);
        if self.done == 0 {
            let member = if self.is_client { "client_id" } else { "id" };
            self.id = Some(answer.text(member).to_owned());
        }
        self.done += 1;
        self.unsure = false;
    }

    /// How many of its acts the records tell of. Each at most once, and none without those before it.
    fn recorded(&self, records: &Records) -> usize {
        let mut in_row = 0;
        if self.is_client {
            let Some(id) = &self.id else { return records.client_named(&self.name) };
            let [made, off, on] = ["client.created", "client.disabled", "client.enabled"].map(|k| records.count(k, id));
            assert!(made == 1 && off >= on && off - on <= 1, "{}: {made} {off} {on}", self.name);
            return made + off + on;
        }
        let id = self.id.clone().or_else(|| records.account_named(&self.name)).unwrap_or_default();
        for (at, (deed, kinds)) in OF_ACCOUNT.iter().enumerate() {
            let times: usize = kinds.iter().map(|kind| records.count(kind, &id)).sum();
            assert!(times <= 1, "{}: {deed:?} is recorded {times} times", self.name);
            assert!(times == 0 || in_row == at, "{}: {deed:?} without what comes before it", self.name);
            in_row += times;
        }
        in_row
    }
}

/// The audit records of a database: how many of a kind there are about somebody.
struct Records {
    counts: BTreeMap<(String, String), usize>,
    /// Addresses of accounts.
    named: BTreeMap<String, String>,
    clients: BTreeMap<String, usize>,
}

impl Records {
    fn count(&self, kind: &str, about: &str) -> usize {
        self.counts.get(&(kind.to_owned(), about.to_owned())).copied().unwrap_or(0)
    }
    fn account_named(&self, email: &str) -> Option<String> {
        self.named.get(email).cloned()
    }
    fn client_named(&self, name: &str) -> usize {
        self.clients.get(name).copied().unwrap_or(0)
    }

    async fn read(store: &SqliteStore, events: &[EventRow]) -> Self {
        let mut counts = BTreeMap::new();
        for row in events {
            let kind = row.event.kind.as_str().to_owned();
            let account = row.event.account.map(|id| id.to_string());
            let about = account.or(row.event.client.map(|id| id.to_string()));
            *counts.entry((kind, about.unwrap_or_default())).or_default() += 1;
        }
        let accounts = store.list_accounts(Some("subject."), None, 10_000).await.unwrap().rows;
        let named = accounts.into_iter().filter_map(|one| Some((one.email?, one.id.to_string()))).collect();
        let mut clients = BTreeMap::new();
        for client in store.list_clients(None, 10_000).await.unwrap().rows {
            *clients.entry(client.name).or_default() += 1;
        }
        Self { counts, named, clients }
    }
}

impl Deeds {
    pub fn new(admin: &Session) -> Self {
        Self { subjects: vec![Subject::client()], token: admin.access.clone(), repeated: 0, found: 0 }
    }

    /// How many acts were answered.
    pub fn done(&self) -> usize {
        self.subjects.iter().map(|one| one.done).sum()
    }

    /// One act after the other, about several in turn, until told to stop or one is not answered.
    pub async fn run(mut self, to: SocketAddr, stop: Arc<AtomicBool>) -> Self {
        const AT_ONCE: usize = 4;
        while self.subjects.iter().filter(|one| !one.is_finished()).count() <= AT_ONCE {
            self.subjects.push(Subject::account(self.subjects.len()));
        }
        let mut turn = 0;
        while !stop.load(SeqCst) {
            turn += 1;
            let mut open = self.subjects.iter_mut().filter(|one| !one.is_finished());
            let Some(one) = open.nth(turn % (AT_ONCE + 1)) else {
                self.subjects.push(Subject::account(self.subjects.len()));
                continue;
            };
            match ask(to, &self.token, &one.call()).await {
                Some(answer) => one.note(&answer),
                None => {
                    one.unsure = true;
                    break;
                }
            }
        }
        self
    }

    /// Holds the journal against the database: the log is whole, each act is recorded once or, when it was not answered, perhaps
    /// not at all, and the rows say the same as the records.
    pub async fn check(&mut self, store: &SqliteStore) {
        let events = whole_log(store).await;
        let records = Records::read(store, &events).await;
        for one in &mut self.subjects {
            let recorded = one.recorded(&records);
            let may_be = one.done..=one.done + usize::from(one.unsure);
            assert!(may_be.contains(&recorded), "{}: {recorded} recorded, {} answered", one.name, one.done);
            self.found += recorded - one.done;
            rows_agree(store, one, recorded).await;
        }
    }

    /// Asks again for what was not answered, until it is.
    pub async fn repeat(&mut self, to: SocketAddr) {
        for one in self.subjects.iter_mut().filter(|one| one.unsure) {
            self.repeated += 1;
            let call = one.call();
            let asking = async {
                loop {
                    if let Some(answer) = ask(to, &self.token, &call).await {
                        return answer;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let answer = tokio::time::timeout(PATIENCE, asking).await.expect("an answer");
            // A client's making takes the key, but its secret is not shown again; there is none here.
            one.note(&answer);
        }
    }
}

/// One call; `None` when nobody knows what became of it.
async fn ask(to: SocketAddr, token: &str, call: &Call) -> Option<Answer> {
    let mut kept = Kept::open(to).await.ok()?;
    let key = [("idempotency-key", &*call.key)];
    let key = if call.method == "PATCH" || call.path.ends_with("/unblock") { &[][..] } else { &key[..] };
    let answer = kept.call_with(call.method, &call.path, Some(token), call.body.as_ref(), key).await.ok()?;
    (answer.status != 503).then_some(answer)
}

/// All records, newest first. The log has no gap, its chain is right, and every entry has one record.
async fn whole_log(store: &SqliteStore) -> Vec<EventRow> {
    let (mut entries, mut chain) = (0, None);
    let stamp = loop {
        let read = store.read_log(Rev(entries), 1000).await.unwrap();
        assert!(read.complete, "nothing is forgotten that young");
        let mut link = chain.unwrap_or_else(|| Chain::genesis(read.stamp.log));
        for entry in &read.entries {
            entries += 1;
            assert_eq!(entry.rev, Rev(entries), "a gap");
            link = link.after(entry);
        }
        chain = Some(link);
        if Rev(entries) == read.stamp.head {
            break read.stamp;
        }
    };
    assert_eq!(chain, Some(stamp.chain), "the chain of the entries is not the one that is kept");
    let (mut events, mut cursor): (Vec<EventRow>, _) = (Vec::new(), None);
    loop {
        let page = store.list_events(&EventFilter::default(), cursor, 1000).await.unwrap();
        cursor = page.rows.last().map(|row| row.event.id);
        events.extend(page.rows);
        if !page.more {
            break;
        }
    }
    let mut told = vec![0; usize::try_from(entries).unwrap()];
    for rev in events.iter().filter_map(|row| row.rev) {
        told[usize::try_from(rev.0).unwrap() - 1] += 1;
    }
    for (at, times) in told.iter().enumerate() {
        assert_eq!(*times, 1, "entry {} has {times} records", at + 1);
    }
    events
}

/// The row is as `acts` acts make it.
async fn rows_agree(store: &SqliteStore, one: &Subject, acts: usize) {
    let Some(id) = &one.id else { return };
    if one.is_client {
        let client = store.load_client(id.parse::<ClientId>().unwrap()).await.unwrap().unwrap().client;
        assert_eq!(client.disabled, acts.is_multiple_of(2), "{}: {acts}", one.name);
        return;
    }
    let account = store.load_account(id.parse::<AccountId>().unwrap()).await.unwrap().unwrap().account;
    let status = match account.status {
        Status::Active => "active",
        Status::Blocked(_) => "blocked",
        _ => "deleted",
    };
    let expected = match acts {
        3 => "blocked",
        6 => "deleted",
        _ => "active",
    };
    assert_eq!(status, expected, "{}: {acts}", one.name);
    assert!(acts == 6 || account.roles.is_empty() == (acts < 2), "{}: {acts} {:?}", one.name, account.roles);
}
