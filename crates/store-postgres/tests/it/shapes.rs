//! Shapes of statements that look right and are wrong under READ COMMITTED. Each stands here with the interleaving that shows why,
//! forced by two connections, and beside it the shape that the store uses. Whoever is tempted by one finds the reason.
//!
//! The tables are the least that it takes: a counter, and an account and a session that an end takes away.
use portcullis_testkit::Cluster;
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn run(db: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(db).await.unwrap();
}

/// Two connections to a database with a counter at 0, an account without a cut, and one session, alive.
async fn scene() -> (PgConnection, PgConnection, String) {
    let url = Cluster::shared().database(None);
    let mut one = connect(&url).await;
    run(
        &mut one,
        "CREATE TABLE counter (head bigint); INSERT INTO counter VALUES (0); \
         CREATE TABLE accounts (id int PRIMARY KEY, cut bigint); INSERT INTO accounts VALUES (1, 0); \
         CREATE TABLE sessions (id int PRIMARY KEY, account int, born bigint, ended bigint); \
         INSERT INTO sessions VALUES (1, 1, 0, NULL)",
    )
    .await;
    (one, connect(&url).await, url)
}

/// Runs `sql` on a connection while another holds what it wants; goes on once it waits.
async fn blocked<T>(mut db: PgConnection, url: &str, sql: &'static str) -> tokio::task::JoinHandle<(PgConnection, T)>
where
    T: for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow> + Send + Unpin + 'static,
{
    let task = tokio::spawn(async move {
        let mut rows = sqlx::query_as(sql).fetch_all(&mut db).await.unwrap();
        (db, rows.remove(0))
    });
    let mut watch = connect(url).await;
    const WAITING: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(WAITING).fetch_one(&mut watch).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    task
}

const END: &str = "BEGIN; UPDATE counter SET head = 1; UPDATE sessions SET ended = 1 WHERE id = 1";

/// A token minted from `(head, ended)`: no verifier will ever refuse it, though the session was ended before its stamp.
fn is_immortal((head, ended): (i64, Option<i64>)) -> bool {
    head == 1 && ended.is_none()
}

/// (a) Facts first, then the head: an end comes in between, the stamp covers it, the facts do not.
#[tokio::test]
async fn the_head_after_the_facts() {
    let (mut reader, mut ender, _) = scene().await;
    run(&mut reader, "BEGIN").await;
    let ended: Option<i64> = sqlx::query_scalar("SELECT ended FROM sessions").fetch_one(&mut reader).await.unwrap();
    run(&mut ender, END).await;
    run(&mut ender, "COMMIT").await;
    let head: i64 = sqlx::query_scalar("SELECT head FROM counter").fetch_one(&mut reader).await.unwrap();
    assert!(is_immortal((head, ended)), "the wrong shape is no longer wrong?");
    run(&mut reader, "COMMIT").await;
    // The store's: one statement, one snapshot.
    let both: (i64, Option<i64>) =
        sqlx::query_as("SELECT head, ended FROM counter, sessions").fetch_one(&mut reader).await.unwrap();
    assert_eq!(both, (1, Some(1)));
}

/// (b) A lock on the counter in the statement that reads the facts: having waited, PostgreSQL reads the locked row anew and
/// leaves the others as the snapshot from before the wait had them.
#[tokio::test]
async fn a_lock_on_the_counter_among_the_facts() {
    let (mut ender, reader, url) = scene().await;
    run(&mut ender, END).await;
    let sql = "SELECT head, ended FROM counter, sessions FOR UPDATE OF counter";
    let waiting = blocked::<(i64, Option<i64>)>(reader, &url, sql).await;
    run(&mut ender, "COMMIT").await;
    let (mut reader, both) = waiting.await.unwrap();
    assert!(is_immortal(both), "the wrong shape is no longer wrong? {both:?}");
    // The store's: the lock in a statement of its own, and facts by a later one, which has a new snapshot.
    run(&mut reader, "BEGIN; SELECT head FROM counter FOR UPDATE").await;
    let both: (i64, Option<i64>) =
        sqlx::query_as("SELECT head, ended FROM counter, sessions").fetch_one(&mut reader).await.unwrap();
    assert_eq!(both, (1, Some(1)));
}

/// (c) The counter raised and the facts read in one statement: the raise waits and sees the newest head, the subselect does not
/// see what came with it.
#[tokio::test]
async fn the_counter_raised_with_a_subselect_of_the_facts() {
    let (mut ender, reader, url) = scene().await;
    run(&mut ender, END).await;
    let sql = "UPDATE counter SET head = head + 1 RETURNING head - 1, (SELECT ended FROM sessions)";
    let waiting = blocked::<(i64, Option<i64>)>(reader, &url, sql).await;
    run(&mut ender, "COMMIT").await;
    let (_, both) = waiting.await.unwrap();
    assert!(is_immortal(both), "the wrong shape is no longer wrong? {both:?}");
}

/// (d) Ending row by row beside a sign-in in flight: its row is not there yet to be ended, and lives on. A cut on the account's
/// row kills it, whenever it comes; and where the sign-in locks that row, one of both waits for the other.
#[tokio::test]
async fn ending_row_by_row_beside_a_sign_in() {
    let (mut ender, mut signer, url) = scene().await;
    run(&mut signer, "BEGIN; INSERT INTO sessions VALUES (2, 1, 0, NULL)").await;
    run(&mut ender, "BEGIN; UPDATE counter SET head = 1; UPDATE sessions SET ended = 1 WHERE account = 1; COMMIT")
        .await;
    run(&mut signer, "COMMIT").await;
    let alive: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sessions WHERE ended IS NULL").fetch_one(&mut ender).await.unwrap();
    assert_eq!(alive, 1, "the wrong shape is no longer wrong?");
    // The store's: born below the cut means dead, whatever the row says.
    run(&mut ender, "UPDATE accounts SET cut = 1 WHERE id = 1").await;
    const DEAD: &str = "SELECT bool_and(s.born < a.cut) FROM sessions s JOIN accounts a ON a.id = s.account";
    assert!(sqlx::query_scalar::<_, bool>(DEAD).fetch_one(&mut ender).await.unwrap());
    // And the sign-in locks the account's row first, so that it sees the cut, or the end sees the session.
    run(&mut ender, "BEGIN; UPDATE accounts SET cut = 2 WHERE id = 1").await;
    let waiting = blocked::<(i64,)>(signer, &url, "SELECT cut FROM accounts WHERE id = 1 FOR UPDATE").await;
    run(&mut ender, "COMMIT").await;
    assert_eq!(waiting.await.unwrap().1, (2,));
}
