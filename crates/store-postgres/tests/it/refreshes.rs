//! Refreshes are committed in a call of their own when nothing else is in their group: each has its own outcome, in whatever group
//! it came to be.
use crate::support::{database, open, runtime};
use crate::together::rows;
use portcullis_domain::changes::{Change, Changes, Conflict};
use portcullis_domain::model::Grant;
use portcullis_store::{CommitError, Store as _};
use portcullis_store_postgres::PostgresStore;
use portcullis_wire::GrantId;
use sqlx::{Connection as _, PgConnection};
use std::sync::Arc;

const GRANTS: u64 = 8;

fn grant(n: u64) -> Grant {
    match rows::sign_in(n).steps.remove(1) {
        Change::InsertGrant(row) => row,
        other => panic!("a sign-in inserts a grant, not {other:?}"),
    }
}

async fn with_grants(url: &str) -> Arc<PostgresStore> {
    let store = Arc::new(open(url).await);
    let accounts = (0..=GRANTS / 4).map(rows::account).collect();
    store.commit(Changes { steps: accounts, ..Changes::default() }).await.unwrap();
    for n in 0..GRANTS {
        store.commit(rows::sign_in(n)).await.unwrap();
    }
    store
}

/// The next state of the n-th family after so many.
fn rotate(n: u64, after: u64) -> Change {
    let Grant { id, mut family, .. } = grant(n);
    let counter = family.counter + after;
    let predecessor = if after == 0 { family.predecessor } else { Some(counter - 1) };
    (family.counter, family.predecessor, family.handouts) = (counter + 1, Some(counter), 0);
    Change::SetFamily { grant: id, counter, predecessor, family }
}

/// `None`: it was written.
async fn conflict(store: &PostgresStore, step: Change) -> Option<Conflict> {
    match store.commit(Changes { steps: vec![step], ..Changes::default() }).await {
        Ok(committed) => {
            assert!(committed.rev.is_none() && committed.at >= rows::NOW);
            None
        }
        Err(CommitError::Conflict(conflict)) => Some(conflict),
        Err(error) => panic!("{error}"),
    }
}

fn all(store: &Arc<PostgresStore>, steps: Vec<Change>) -> Vec<tokio::task::JoinHandle<Option<Conflict>>> {
    let one = |step| {
        let store = store.clone();
        tokio::spawn(async move { conflict(&store, step).await })
    };
    steps.into_iter().map(one).collect()
}

#[test]
fn each_has_its_own_outcome() {
    runtime().block_on(async {
        let store = with_grants(&database()).await;
        let at = rows::NOW.plus(5);
        for round in 0..20 {
            let mut steps: Vec<_> = (0..GRANTS).map(|n| rotate(n, round)).collect();
            // One is handed out once more instead, one has moved, one is not there.
            let first = grant(0);
            let now = first.family.counter + if round < 5 { round } else { 5 };
            if round >= 5 {
                steps[0] = Change::HandOut { grant: first.id, counter: now, at };
            }
            steps.push(Change::HandOut { grant: grant(GRANTS).id, counter: 1, at });
            if round > 0 {
                steps[1] = rotate(1, round + 7);
            }
            let mut outcomes = Vec::new();
            for outcome in all(&store, steps) {
                outcomes.push(outcome.await.unwrap());
            }
            let mut expected = vec![None; GRANTS as usize];
            expected[1] = (round > 0).then_some(Conflict::Moved);
            expected.push(Some(Conflict::Missing));
            assert_eq!(outcomes, expected, "round {round}");
        }
        let family = |id: GrantId| {
            let store = store.clone();
            async move { store.load_refresh(id).await.unwrap().unwrap().grant.family }
        };
        let (first, second, third) = (grant(0), grant(1), grant(2));
        let kept = family(first.id).await;
        assert_eq!((kept.counter, kept.handouts, kept.handed_at), (first.family.counter + 5, 15, at));
        assert_eq!((kept.secret, kept.predecessor), (first.family.secret, Some(first.family.counter + 4)));
        assert_eq!(family(second.id).await.counter, second.family.counter + 1);
        assert_eq!(family(third.id).await.counter, third.family.counter + 20);
    });
}

#[test]
fn of_two_with_the_same_one_wins_on_one_node_and_on_two() {
    runtime().block_on(async {
        let url = database();
        let (one, two) = (with_grants(&url).await, Arc::new(open(&url).await));
        for round in 0..20 {
            let other = if round % 2 == 0 { &one } else { &two };
            let mine = all(&one, (0..GRANTS).map(|n| rotate(n, round)).collect());
            let others = all(other, (0..GRANTS).rev().map(|n| rotate(n, round)).collect());
            for (a, b) in mine.into_iter().zip(others.into_iter().rev()) {
                let outcomes = (a.await.unwrap(), b.await.unwrap());
                let moved = Some(Conflict::Moved);
                assert!(outcomes == (None, moved) || outcomes == (moved, None), "round {round}: {outcomes:?}");
            }
        }
    });
}

/// A list's length goes into its plan, so that short ones are planned for each call; behind `each_id` it does not.
#[test]
fn the_plan_of_a_lookup_is_kept() {
    runtime().block_on(async {
        let url = database();
        drop(with_grants(&url).await);
        let mut db = PgConnection::connect(&url).await.unwrap();
        let ids = format!("ARRAY['\\x{:032x}'::bytea]", grant(0).id.bits());
        sqlx::raw_sql("SET search_path TO portcullis").execute(&mut db).await.unwrap();
        let prepare = "PREPARE each (bytea[]) AS SELECT g.* FROM each_id($1) i JOIN grants g ON g.id = i";
        let run = format!("EXECUTE each ({ids});").repeat(10);
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{prepare};{run}"))).execute(&mut db).await.unwrap();
        let kept = "SELECT generic_plans FROM pg_prepared_statements WHERE name = 'each'";
        assert_eq!(sqlx::query_scalar::<_, i64>(kept).fetch_one(&mut db).await.unwrap(), 5);
    });
}
