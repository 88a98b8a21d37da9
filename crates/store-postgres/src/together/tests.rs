use super::*;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// Takes some milliseconds.
const SLOW: u128 = 100;
/// From here on: no answer until all are let go.
const STUCK: u128 = 200;
const PANICS: u128 = 300;
/// The server gives an error for every statement with it.
const DAMAGED: u128 = 400;
/// The way to the server is broken.
const CUT: u128 = 500;

const SHORT: Duration = Duration::from_millis(10);
/// For what comes long before.
const SOON: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Server;
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid page")
    }
}
impl Error for Server {}
impl sqlx::error::DatabaseError for Server {
    fn message(&self) -> &str {
        "invalid page"
    }
    fn code(&self) -> Option<Cow<'_, str>> {
        Some("XX001".into())
    }
    fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
        self
    }
    fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
        self
    }
    fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
        self
    }
    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}

/// Lookups by no database: what is there is an error that says its number, and no odd number is there.
struct Fake {
    lookups: Arc<Lookups>,
    statements: Arc<Mutex<Vec<Vec<u128>>>>,
    let_go: Arc<Notify>,
}

impl Fake {
    fn new() -> Self {
        let (statements, let_go) = (Arc::<Mutex<Vec<_>>>::default(), Arc::new(Notify::new()));
        let (said, gate) = (statements.clone(), let_go.clone());
        let clock = Arc::new(DatabaseClock::new(crate::TimeSource::Given(Arc::new(|| portcullis_wire::Time(0)))));
        let lookups = Lookups::by(1000, watch::channel(None).1, clock, move |grants: Vec<GrantId>| {
            let grants: Vec<u128> = grants.into_iter().map(GrantId::bits).collect();
            said.lock().unwrap_or_else(PoisonError::into_inner).push(grants.clone());
            let gate = gate.clone();
            async move {
                for grant in &grants {
                    match *grant {
                        SLOW => sleep(2 * SHORT).await,
                        STUCK..PANICS => gate.notified().await,
                        PANICS => panic!("as it was told to"),
                        DAMAGED => return Err(Fault::Sqlx(sqlx::Error::Database(Box::new(Server)))),
                        CUT => return Err(Fault::Row("no answer".into())),
                        _ => {}
                    }
                }
                let there = grants.into_iter().filter(|grant| grant % 2 == 0);
                Ok(there.map(|grant| (GrantId::from_bits(grant), Err(StoreError::new(grant)))).collect())
            }
        });
        Self { lookups: Arc::new(lookups), statements, let_go }
    }

    fn ask(&self, grant: u128) -> JoinHandle<Found> {
        let lookups = self.lookups.clone();
        tokio::spawn(async move { lookups.refresh(GrantId::from_bits(grant)).await })
    }

    fn statements(&self) -> Vec<Vec<u128>> {
        mem::take(&mut self.statements.lock().unwrap())
    }

    /// As many statements are under way that give no answer.
    async fn stick(&self, many: usize) {
        for n in 0..many {
            drop(self.ask(STUCK + n as u128));
            sleep(SHORT).await;
            while self.statements.lock().unwrap().len() <= n {
                sleep(SHORT).await;
            }
        }
        assert!(self.statements().iter().all(|statement| statement.len() == 1));
    }
}

async fn said(asked: JoinHandle<Found>) -> String {
    match timeout(SOON, asked).await.expect("an answer").unwrap() {
        Ok(None) => "none".into(),
        Ok(Some(_)) => panic!("it is no view"),
        Err(error) => error.detail,
    }
}

#[tokio::test]
async fn while_one_is_quick_the_next_waits_and_grows() {
    let fake = Fake::new();
    let first = fake.ask(SLOW);
    sleep(SHORT / 2).await;
    let rest: Vec<_> = (0..10).chain(0..10).map(|grant| (grant, fake.ask(grant))).collect();
    assert_eq!(said(first).await, "100");
    for (grant, asked) in rest {
        let there = if grant % 2 == 0 { grant.to_string() } else { "none".into() };
        assert_eq!(said(asked).await, there);
    }
    assert_eq!(fake.statements(), [vec![SLOW], (0..10).collect()]);
}

#[tokio::test]
async fn one_that_gives_no_answer_holds_nobody_up() {
    let fake = Fake::new();
    fake.stick(UNDER_WAY - 1).await;
    for grant in 0..5 {
        said(fake.ask(grant)).await;
    }
    assert_eq!(fake.statements().len(), 5);
}

#[tokio::test]
async fn beyond_the_most_they_wait_but_not_for_long() {
    let fake = Fake::new();
    fake.stick(UNDER_WAY).await;
    // More than one batch waits.
    let late: Vec<_> = (0..2 * AT_ONCE as u128).map(|grant| fake.ask(grant)).collect();
    sleep(LATE / 2).await;
    let (gone, kept) = (fake.ask(2), fake.ask(4));
    sleep(SHORT).await;
    gone.abort();
    sleep(LATE / 2).await;
    for asked in late {
        let error = timeout(SOON / 2, asked).await.expect("an answer").unwrap().unwrap_err();
        assert_eq!(error.kind, FaultKind::Overloaded);
    }
    assert!(fake.statements().is_empty());
    fake.let_go.notify_one();
    assert_eq!(said(kept).await, "4");
    assert_eq!(fake.statements(), [[4]]);
}

#[tokio::test]
async fn a_panic_is_its_own() {
    let fake = Fake::new();
    let asked = fake.ask(PANICS);
    assert_eq!(said(asked).await, "a lookup gave no answer");
    assert_eq!(said(fake.ask(2)).await, "2");
}

#[tokio::test]
async fn an_error_for_what_one_of_them_holds_is_that_ones() {
    let fake = Fake::new();
    let first = fake.ask(SLOW);
    sleep(SHORT / 2).await;
    let rest = [2, 4, DAMAGED, 1].map(|grant| (grant, fake.ask(grant)));
    drop(said(first).await);
    for (grant, asked) in rest {
        let error =
            if grant == DAMAGED { "PostgreSQL: invalid page (SQLSTATE XX001)".into() } else { grant.to_string() };
        assert_eq!(said(asked).await, if grant == 1 { "none".into() } else { error });
    }
    assert_eq!(fake.statements()[1..], [vec![1, 2, 4, DAMAGED], vec![1], vec![2], vec![4], vec![DAMAGED]]);
}

#[tokio::test]
async fn a_broken_way_is_not_tried_for_each() {
    let fake = Fake::new();
    let first = fake.ask(SLOW);
    sleep(SHORT / 2).await;
    let rest = [2, 4, CUT].map(|grant| fake.ask(grant));
    drop(said(first).await);
    for asked in rest {
        assert_eq!(said(asked).await, "no answer");
    }
    assert_eq!(fake.statements()[1..], [[2, 4, CUT]]);
    // Nor when it breaks in the midst of asking one by one.
    let first = fake.ask(SLOW);
    sleep(SHORT / 2).await;
    let rest = [2, DAMAGED, CUT, CUT + 1, CUT + 2].map(|grant| (grant, fake.ask(grant)));
    drop(said(first).await);
    for (grant, asked) in rest {
        let said = said(asked).await;
        assert_eq!(said == "no answer", grant >= CUT, "{grant}: {said}");
    }
    assert_eq!(fake.statements()[2..], [vec![2], vec![DAMAGED], vec![CUT]]);
}
